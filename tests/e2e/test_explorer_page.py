"""The explorer as a person uses it, in a browser."""

import re
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.served import ENDLESS
from tests.helpers.waiting import GUARD, until

expect.set_options(timeout=1000 * GUARD)


def set_attack(page: Any, name: str = "es", eps: int = 70, steps: int = 20) -> None:
    page.get_by_label("Attack", exact=True).select_option(name)
    if name != "patch":
        page.locator("#eps").fill(str(eps))
    page.get_by_label("Steps").fill(str(steps))


def attack(page: Any) -> None:
    page.get_by_role("button", name="Attack").click()


def done(page: Any) -> None:
    expect(page.get_by_text("Done: plain finds")).to_be_visible()


def shown(page: Any, title: str, model: int = 0) -> list[str]:
    """The images of a list, by their addresses."""
    images = page.locator("article").nth(model).locator(".list").filter(has_text=title).locator("li img")
    return [str(image.get_attribute("src")) for image in images.all()]


def test_a_query_is_chosen_and_attacked_and_what_is_found_changes(tab: Any) -> None:
    page = tab()
    expect(page.get_by_text("digits, 200 images of 8 pixels. 2 models.")).to_be_visible()
    page.get_by_label("Class, file or number").fill("7")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#page")).to_contain_text("1 of 1")
    page.locator("#gallery button").nth(2).click()
    expect(page.locator("#asked")).to_contain_text("7, no.")
    expect(page.locator("#gallery button").nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("not attacked yet").first).to_be_visible()
    clean = shown(page, "As it is")
    set_attack(page)
    attack(page)
    done(page)
    assert shown(page, "Before") == clean
    assert len(shown(page, "After")) == 10
    assert shown(page, "After") != clean
    board = page.locator(".board li").first
    found = re.search(r"finds 7 (\d+) of 10 times before, (\d+) of 10 after", board.inner_text())
    assert found is not None
    before, after = map(int, found.groups())
    assert after < before
    assert board.locator(".dot.match").count() == before + after
    assert board.locator(".dot").count() == 20
    expect(board.locator(".first")).to_have_text(re.compile("✕ first answer right → wrong|✓ first answer still right"))
    most = re.search(r"(\d+)/255 at most", page.locator("article .facts .note").first.inner_text())
    assert most is not None
    assert 0 < int(most[1]) <= 70
    with page.expect_download() as download:
        page.get_by_role("link", name="save as PNG").first.click()
    assert download.value.suggested_filename == "plain-es.png"
    with Image.open(download.value.path()) as saved:
        assert (saved.format, saved.size, saved.mode) == ("PNG", (8, 8), "L")


def test_a_target_is_shown_with_its_places(tab: Any) -> None:
    page = tab(color_scheme="dark")
    set_attack(page, "qa+")
    expect(page.locator("#aim")).to_have_text("Makes the query rank a random image first.")
    attack(page)
    done(page)
    places = page.locator(".targets figcaption")
    expect(places).to_have_count(2)
    was, now = re.search(r"place ([\d,]+) → ([\d,]+)", places.first.inner_text()).groups()  # type: ignore[union-attr]
    assert int(now) < int(was)
    assert page.locator(".targets img").first.get_attribute("src") == page.locator(".targets img").last.get_attribute(
        "src"
    )


def test_a_patch_is_painted_on_the_query(tab: Any) -> None:
    page = tab(width=1200, color_scheme="dark")
    set_attack(page, "patch", steps=5)
    expect(page.locator("#eps")).to_be_hidden()
    attack(page)
    done(page)
    figures = page.locator("article").first.locator("figure")
    expect(figures).to_have_count(3)
    expect(figures.last).to_contain_text("the patch, upright")
    sides = figures.locator("img").evaluate_all("all => all.map((one) => [one.naturalWidth, one.complete])")
    assert sides == [[8, True], [8, True], [2, True]]
    assert len(shown(page, "After")) == 10
    page.get_by_label("Attack", exact=True).select_option("es")
    expect(page.locator("#eps")).to_be_visible()


def test_an_image_is_made_a_hub(tab: Any) -> None:
    page = tab(width=390)
    set_attack(page, "hub", steps=5)
    attack(page)
    expect(page.get_by_text("Done: plain: first for")).to_be_visible()
    board = page.locator(".board li").first
    said = re.search(r"of ([\d.]+) % of other queries before, ([\d.]+) % after", board.inner_text())
    assert said is not None
    bars = board.locator(".bar .filled").evaluate_all("all => all.map((one) => one.width.baseVal.value / 2)")
    assert [round(one, 1) for one in bars] == [float(one) for one in said.groups()]
    expect(board.locator(".note").last).to_contain_text("z-score")
    expect(page.locator("article").first).to_contain_text("Made on 100 queries, read on 99 others.")
    won = page.locator("article").first.locator(".asking li")
    share = page.locator("article").first.locator(".readings td").nth(2).inner_text()
    assert won.count() == min(10, round(99 * float(share.removesuffix(" %")) / 100))
    page.locator("#gallery button").nth(1).click()
    expect(page.get_by_text("not attacked yet")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_two_images_are_compared_by_a_verifier(tab: Any) -> None:
    page = tab(width=1200)
    board = page.locator(".board li").first
    set_attack(page, "dodging")
    expect(page.locator("#template-name")).to_have_text("an image that the attack chooses")
    attack(page)
    expect(page.get_by_text(re.compile("Done: plain takes them for (the same|different)"))).to_be_visible()
    distance = re.compile(r"distance ([\d.]+) before, ([\d.]+) after")
    before, after = map(float, distance.search(board.inner_text()).groups())  # type: ignore[union-attr]
    assert after > before
    told = page.locator("article").first.locator("p.note").last
    expect(told).to_contain_text(re.compile(r"\(FAR\) of 1 %, of [\d,]+ impostor pairs .* can show is [\d.]+ %"))
    query = page.locator("#asked").inner_text()
    set_attack(page, "impersonation")
    page.get_by_role("button", name="Choose it").click()
    chosen = page.locator("#gallery button", has=page.locator(f"img:not([alt^='{query[0]}'])")).first
    chosen.click()
    expect(page.locator("#asked")).to_have_text(query)
    title = str(chosen.get_attribute("title"))
    expect(page.locator("#template-name")).to_have_text(title)
    attack(page)
    expect(page.get_by_text("Done: plain takes them for")).to_be_visible()
    before, after = map(float, distance.search(board.inner_text()).groups())  # type: ignore[union-attr]
    assert after < before
    threshold = re.search(r"the same below ([\d.]+), the threshold at FAR 1 %", board.inner_text())
    assert threshold is not None
    verdict = ["same" if one < float(threshold[1]) else "different" for one in (before, after)]
    said = f"{verdict[0]} → {verdict[1]}" if verdict[0] != verdict[1] else f"{verdict[0]}, as before"
    expect(board.locator(".first")).to_have_text(f"{'✓' if verdict[1] == 'different' else '✕'} {said}")
    expect(page.locator("article").first.locator(".beside figcaption")).to_have_text(title.replace(", ", ""))


def test_two_images_that_are_no_pair_are_refused_in_words(tab: Any) -> None:
    page = tab()
    set_attack(page, "dodging")
    page.get_by_role("button", name="Choose it").click()
    page.locator("#gallery button").first.click()
    attack(page)
    expect(page.get_by_role("alert")).to_have_text(re.compile("^an image is not compared with itself"))
    page.get_by_role("button", name="Let it choose").click()
    attack(page)
    expect(page.get_by_text("Done: plain takes them for")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_index_is_shown_beside_every_vector_compared(indexed: str, tab: Any) -> None:
    page = tab(width=390, at=indexed)
    expect(page.locator("#subject")).to_contain_text("2 models. Searched by the index IVF16,PQ4x4.")
    expect(page.locator("#attack option[value=hub]")).to_have_count(0)
    beside = page.locator(".board li").first.locator(".note", has_text="exact:")
    expect(beside).to_have_text(re.compile(r"exact: \d+ of 10; exact place of the first result: \d+$"))
    set_attack(page, "qa+")
    attack(page)
    done(page)
    expect(beside).to_have_text(re.compile(r"exact: \d+ of 10 → \d+ of 10; exact place of .*: \d+ → (\d+|none)$"))
    expect(page.locator(".targets figcaption").first).to_have_text(
        re.compile(r"place (\d+|> 10) → (\d+|> 10), exact \d+ → \d+$")
    )
    for title in ("Before", "After"):
        moves = page.locator("article").first.locator(".list").filter(has_text=title).locator("li").all_inner_texts()
        assert moves
        assert all(re.search(r"(stays|(now|was) (\d+|> 10))\s+exact \d+$", one) for one in moves)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_is_enough_and_a_telephone_wide_enough(tab: Any) -> None:
    page = tab(width=390, height=844)
    page.get_by_label("Class, file or number").focus()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    expect(page.locator("#page")).to_contain_text("1 of 1")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#asked")).to_contain_text("3, no.")
    page.locator("#steps").focus()
    page.keyboard.press("Enter")
    done(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    named = "one.labels?.length || one.ariaLabel || one.textContent.trim() || one.querySelector('img[alt]')"
    unnamed = page.locator("input:visible, select:visible, button:visible").evaluate_all(
        f"all => all.filter(one => !({named})).map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_a_telephone_is_wide_enough_for_long_file_names(tab: Any) -> None:
    page = tab(width=390, height=844)

    def renamed(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        for image in found["images"]:
            image["name"] = 30 * "folder" + ".png"
        route.fulfill(response=answer, json=found)

    page.route("**/api/images*", renamed)
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#gallery button").first).to_have_attribute("title", re.compile("folder"))
    set_attack(page, "dodging", steps=1)
    for image, role in ((3, "Choose it"), (4, "Attack")):
        page.locator("#gallery button").nth(image).click()
        page.get_by_role("button", name=role).click()
    expect(page.locator("#asked")).to_contain_text("folder.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def give(page: Any, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_an_image_of_ones_own_is_uploaded_and_attacked(tab: Any) -> None:
    page = tab()
    src = page.locator("#query").get_attribute("src")
    give(page, "mine.png", page.request.get(f"{page.url}{src}").body())
    expect(page.locator("#upload-note")).to_contain_text("mine.png: it counts as")
    expect(page.locator("#asked")).to_contain_text("uploaded: not in the gallery")
    assert shown(page, "As it is")[0] == src
    set_attack(page, "gtm")
    attack(page)
    done(page)
    label = page.get_by_label("It counts as")
    label.select_option("4" if label.input_value() != "4" else "5")
    expect(page.get_by_text("not attacked yet").first).to_be_visible()
    expect(page.locator(".list .other").first).to_be_visible()
    give(page, "clear.png", png(Image.new("RGBA", (30, 20), (0, 0, 0, 0))))
    expect(page.locator("#upload-note")).to_contain_text("clear.png (what is transparent has become white)")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("words.png", b"no image at all", "words.png: the file is no image of the kinds PNG, JPEG"),
        ("empty.png", b"", "empty.png: the file is empty"),
        (
            "huge.png",
            png(Image.new("1", (10_000, 10_000))),
            "huge.png: the image has 10000 × 10000 pixels, more than the 40,000,000",
        ),
    ],
    ids=["no image", "empty", "100 megapixels"],
)
def test_what_cannot_be_taken_is_refused_in_words(
    name: str, content: bytes, said: str, tab: Any, faults: list[str]
) -> None:
    page = tab()
    give(page, name, content)
    expect(page.get_by_role("alert")).to_contain_text(said)
    page.locator("#gallery button").nth(1).click()
    expect(page.get_by_role("alert")).to_be_hidden()
    faults[:] = [fault for fault in faults if "status of 400" not in fault]


def test_a_file_that_is_too_large_is_not_even_sent(tab: Any) -> None:
    page = tab()
    page.locator("#file").evaluate(
        "input => { const chosen = new DataTransfer();"
        "chosen.items.add(new File([new Uint8Array(11 * 2 ** 20)], 'heavy.png'));"
        "input.files = chosen.files; input.dispatchEvent(new Event('change')); }"
    )
    expect(page.get_by_role("alert")).to_contain_text("heavy.png: the file is larger than 10 MB")


def test_an_attack_is_cancelled_and_another_one_made(tab: Any) -> None:
    page = tab()
    set_attack(page, steps=ENDLESS)
    attack(page)
    expect(page.get_by_text(f"plain: step 3 of {ENDLESS}")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    set_attack(page)
    attack(page)
    done(page)


def test_nothing_that_is_clicked_is_lost(tab: Any) -> None:
    """Not while the clean ranking is awaited, nor while the server has not answered that it takes the attack."""
    page = tab()
    held: list[Any] = []
    go, cancel = (page.get_by_role("button", name=name) for name in ("Attack", "Cancel"))

    def hold(route: Any) -> None:
        held.append(route)

    def release() -> None:
        until(lambda: held or page.wait_for_timeout(5))
        held.pop().continue_()

    page.route("**/api/queries/*", hold)
    page.route("**/api/attacks", hold)
    page.locator("#gallery button").nth(3).click()
    expect(go).to_be_disabled()
    release()
    expect(go).to_be_enabled()
    set_attack(page, steps=ENDLESS)
    attack(page)
    expect(page.get_by_text("Starting …")).to_be_visible()
    expect(cancel).to_be_disabled()
    release()
    cancel.click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()


def test_two_tabs_wait_for_each_other_and_a_closed_one_makes_room(tab: Any) -> None:
    one, other = tab(), tab()
    set_attack(one, steps=ENDLESS)
    with one.expect_response("**/api/attacks") as begun:
        attack(one)
    job = begun.value.json()["id"]
    expect(one.get_by_text(f"plain: step 3 of {ENDLESS}")).to_be_visible()
    set_attack(other, steps=5)
    attack(other)
    expect(other.get_by_text("Waiting: 1 before this one.")).to_be_visible()
    one.goto("about:blank")
    done(other)
    assert other.request.get(f"{other.url}api/jobs/{job}").json().get("state") == "cancelled"


def test_another_choice_stops_the_attack_of_the_one_before(tab: Any) -> None:
    page = tab()
    set_attack(page, steps=ENDLESS)
    attack(page)
    expect(page.get_by_text(f"plain: step 3 of {ENDLESS}")).to_be_visible()
    page.locator("#gallery button").nth(3).click()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    expect(page.get_by_text("not attacked yet")).to_have_count(2)
    set_attack(page, steps=2)
    attack(page)
    done(page)


def test_a_server_that_is_gone_is_said_to_be(tab: Any, faults: list[str]) -> None:
    page = tab()
    page.route("**/api/**", lambda route: route.abort())
    attack(page)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    faults.clear()
