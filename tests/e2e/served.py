"""``holdfast explore``, whose attacks of :data:`ENDLESS` steps stop at the third until somebody cancels them."""

import time
from typing import Any

from holdfast.cli import main
from holdfast.explorer import server
from holdfast.explorer.jobs import Tell

ENDLESS = 1000

whole = server.attack


def attack(scene: Any, query: Any, resolved: Any, tell: Tell) -> Any:
    def told(progress: dict[str, Any]) -> None:
        tell(progress)
        while (progress["step"], progress["steps"]) == (3, ENDLESS):
            time.sleep(0.01)
            tell(progress)  # which ends it

    return whole(scene, query, resolved, told)


if __name__ == "__main__":
    vars(server)["attack"] = attack
    main()
