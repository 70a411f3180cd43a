"""From two results to a decision: has a model become worse than a rule allows, and can the queries tell?"""
