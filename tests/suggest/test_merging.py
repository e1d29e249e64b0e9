from __future__ import annotations

from porting.mapping import Rule
from porting.ops import Transpose
from porting.suggest.generalise import SuggestedRule
from porting.suggest.merging import merged

NAMES = [f"a/{word}/kernel" for word in "qkv"]


def suggested(word: str, confidence: float = 0.9, *ops: Transpose) -> SuggestedRule:
    rule = Rule(f"a/{word}/kernel", f"b.{word}.weight", ops)
    return SuggestedRule(rule, (f"a/{word}/kernel",), (f"b.{word}.weight",), confidence, (f"of {word}",))


def test_rules_that_differ_in_a_word_of_both_sides_are_one_as_sure_as_the_least() -> None:
    (rule,) = merged([suggested("q"), suggested("k", 0.87), suggested("v")], NAMES)
    assert (rule.rule.pattern, rule.rule.target) == ("a/(?P<name>q|k|v)/kernel", "b.{name}.weight")
    assert (rule.confidence, rule.reasons) == (0.87, ("of k",))
    assert rule.sources == tuple(NAMES)


def test_the_doubt_of_one_does_not_hide_in_another() -> None:
    rules = [suggested("q"), suggested("k", 0.7)]
    assert merged(rules, NAMES) == rules


def test_rules_with_other_ops_stay_apart() -> None:
    rules = [suggested("q"), suggested("k", 0.9, Transpose())]
    assert merged(rules, NAMES) == rules


def test_a_joined_rule_claims_no_name_of_another() -> None:
    # With both numbers free, `a/(?P<name>q|k)_1...` would claim what neither rule does.
    rules = [
        SuggestedRule(Rule("a/q/.*", "q.b"), ("a/q/x",), ("q.b",), 0.9, ()),
        SuggestedRule(Rule("a/k/.*", "k.b"), ("a/k/x",), ("k.b",), 0.9, ()),
    ]
    assert merged(rules, ["a/q/x", "a/k/x", "a/k/y"]) == rules
