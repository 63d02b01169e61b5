"""The checks of a rollout: the verdict of each on the evidence, in numbers and in words. Pure."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from inferlane.contracts.rollout import Check, CheckOptions, RolloutSpec, Then, Verdict
from inferlane.errors import quoted
from router.rollouts.answer_evidence import Answers
from router.rollouts.clusters import ClusterSums, combined
from router.rollouts.evidence import CopyCountOf, CountOf, Learnt
from router.rollouts.outside_checks import Reading, judge_feedback, judge_metric
from router.rollouts.statistics import (
    OTHER_ODDS,
    Difference,
    Floats,
    PairedSums,
    jensen_shannon,
    log_evidence,
    log_ratios,
)

# How alpha is divided among the checks that roll back, so that it bounds their joint error.
_ALPHA_SHARE = {Check.ERRORS: 0.8, Check.EXPIRED: 0.1, Check.LATENCY: 0.1}
# A sample ratio mismatch voids the comparison, so a false alarm must be rare (0.001 is the usual bound in the field).
_SHARE_ALPHA = 0.001
# A promotion claims "not worse by more than the margin"; that is wrong in at most one of twenty.
_PROMOTION_ALPHA = 0.05
_FAILS_THEN = {
    Check.ERRORS: Then.ROLL_BACK,
    Check.LATENCY: Then.ROLL_BACK,
    Check.EXPIRED: Then.ROLL_BACK,
    Check.PROMETHEUS: Then.ROLL_BACK,
}
_NOUNS = {Check.ERRORS: "requests", Check.LATENCY: "runs of as many rows", Check.EXPIRED: "requests"}


def then_of(check: Check, options: CheckOptions) -> Then:
    """Return what follows when the check fails: a rollback of what is worse, a pause of what is only different."""
    return options.then or _FAILS_THEN.get(check, Then.PAUSE)


def judge(
    learnt: Learnt, spec: RolloutSpec, readings: Mapping[Check, Reading], *, weight: float = 0.0, in_doubt: int = 0
) -> tuple[Verdict, ...]:
    """Return what every check of the rollout says; `readings` are what was read outside.

    `in_doubt` is the number of requests that were routed at the candidate's present weight and may not be counted yet.
    """
    learnt = replace(learnt, share=_least_share(learnt.share, weight=weight, in_doubt=in_doubt))
    return tuple(_judge(check, options, learnt, spec, readings) for check, options in spec.checks.items())


def _least_share(share: Floats, *, weight: float, in_doubt: int) -> Floats:
    """The weakest evidence of another share than asked for that the requests in doubt allow, whosever they are."""
    candidates = share + log_ratios(in_doubt, 0.0, weight, OTHER_ODDS)
    stables = share + log_ratios(0.0, in_doubt, weight, OTHER_ODDS)
    return min(share, candidates, stables, key=log_evidence)


def _judge(
    check: Check, options: CheckOptions, learnt: Learnt, spec: RolloutSpec, readings: Mapping[Check, Reading]
) -> Verdict:
    match check:
        case Check.ERRORS | Check.EXPIRED | Check.LATENCY:
            return _rate(check, options, learnt, spec)
        case Check.ANSWERS:
            return _answers(options, learnt)
        case Check.AGREEMENT:
            return _agreement(options, learnt)
        case Check.SHARE:
            return _share(learnt)
        case Check.PROMETHEUS:
            return judge_metric(options, readings.get(check))
        case Check.QUALITY | Check.REWARD:
            return judge_feedback(check, options, readings.get(check))


def _rate(check: Check, options: CheckOptions, learnt: Learnt, spec: RolloutSpec) -> Verdict:
    free, keyed = learnt.sums.get(check, PairedSums()), learnt.clusters.get(check, ClusterSums())
    evidence = log_evidence(getattr(learnt, check.value)) + keyed.log_evidence()
    is_failed = evidence >= math.log(1 / (options.alpha * _ALPHA_SHARE[check]))
    found = combined(free, keyed, alpha=2 * _PROMOTION_ALPHA, tuned_for=2.0 * spec.each.min_requests)
    if found is None:
        says = f"nothing to compare yet: no {_NOUNS[check]} of both versions in one slot"
        if is_failed:
            # The candidate has had nothing but copies so far.
            failed, copies = learnt.shadows[CopyCountOf.FAILED], learnt.shadows[CopyCountOf.REQUESTS]
            says = f"worse: {failed:,.0f} of {copies:,.0f} shadow copies failed"
        return Verdict(check=check, is_failed=is_failed, says=says, log_evidence=evidence)
    is_enough, draws = found.high < options.margin, free.exposures + keyed.total
    return Verdict(
        check=check,
        is_failed=is_failed,
        is_enough=is_enough,
        says=_words(found, options.margin, draws, is_failed=is_failed, is_enough=is_enough),
        candidate=(free.events + keyed.events) / draws,
        stable=(free.expected + keyed.expected) / draws,
        candidate_requests=int(learnt.counts[CountOf.REQUESTS]),
        stable_requests=int(learnt.counts[CountOf.STABLE_REQUESTS]),
        low=found.low,
        high=found.high,
        log_evidence=evidence,
    )


def _words(found: Difference, margin: float, draws: float, *, is_failed: bool, is_enough: bool) -> str:
    points = f"{100 * found.estimate:+.2g}" if abs(found.estimate) < 1 else f"{100 * found.estimate:+.0f}"
    if is_failed:
        return f"worse: {points} points"
    if found.high < 0:
        return f"better: {points} points"
    if is_enough:
        return f"same within {100 * max(found.high, -found.low, 0):.2g} points"
    more = _requests_missing(found, margin, draws)
    return "not yet: " + (f"about {more:,} requests more" if more else "the versions differ by about the margin")


def _requests_missing(found: Difference, margin: float, draws: float) -> int:
    """How many more requests the bound takes to fall below the margin if the estimate stays; 0 if it never does."""
    half = found.high - found.estimate
    room = margin - found.estimate
    if room <= 0:
        return 0
    # A bound that is tuned for the present number of draws shrinks with its square root.
    return max(1, math.ceil(draws * ((half / room) ** 2 - 1)))


def _answers(options: CheckOptions, learnt: Learnt) -> Verdict:
    answers = learnt.answers
    if not answers.labels:
        says = "deciles of the stable version's values are being found" if answers.values else "no answers to compare"
        return Verdict(check=Check.ANSWERS, is_enough=True, says=says)
    distance = jensen_shannon(answers.candidate, answers.stable)
    evidence = answers.log_evidence
    is_significant = evidence >= math.log(1 / options.alpha)
    is_failed = is_significant and distance >= options.distance
    where = "apart" if is_failed else "alike" if distance < options.distance else "not yet sure"
    says = f"{where}: Jensen-Shannon distance {distance:.3f}, the limit is {options.distance:g}"
    if is_failed:
        says += f"; {_most_apart(answers)}"
    return Verdict(
        check=Check.ANSWERS,
        is_failed=is_failed,
        is_enough=not is_failed,
        says=says,
        candidate=distance,
        log_evidence=evidence,
    )


def _most_apart(answers: Answers) -> str:
    """Return the class, or the range of values, in which the two versions differ most."""
    ours, theirs = answers.candidate / answers.candidate.sum(), answers.stable / answers.stable.sum()
    most = int(np.abs(ours - theirs).argmax())
    return (
        f"{quoted(answers.labels[most])} is {ours[most]:.1%} of its answers and {theirs[most]:.1%} of the stable ones"
    )


def _agreement(options: CheckOptions, learnt: Learnt) -> Verdict:
    # Python's own numbers: a state with a numpy number cannot be encoded.
    compared, agreed = float(learnt.shadows[CopyCountOf.COMPARED]), float(learnt.shadows[CopyCountOf.AGREED])
    if not compared:
        return Verdict(check=Check.AGREEMENT, says="no shadow copy was compared yet")
    evidence = log_evidence(learnt.disagreement)
    is_failed = evidence >= math.log(1 / options.alpha)
    return Verdict(
        check=Check.AGREEMENT,
        is_failed=is_failed,
        is_enough=not is_failed,
        says=f"{agreed / compared:.1%} of {compared:,.0f} compared rows agree, at least {options.agreement:.1%} must",
        candidate=agreed / compared,
        log_evidence=evidence,
    )


def _share(learnt: Learnt) -> Verdict:
    evidence = log_evidence(learnt.share)
    is_failed = evidence >= math.log(1 / _SHARE_ALPHA)
    says = "the candidate serves another share than the split asks for" if is_failed else "as the split asks"
    return Verdict(check=Check.SHARE, is_failed=is_failed, is_enough=not is_failed, says=says, log_evidence=evidence)
