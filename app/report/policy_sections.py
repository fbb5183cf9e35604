"""The report of a policies run: what was run, bytes against accuracy task by task, and which heads kept everything."""

from __future__ import annotations

from app.figures.policies import assignment_figure, pareto_figure
from app.report.blocks import FigureBlock, anchor, figure_block
from app.report.boards import BoardSection
from app.views.policies import PolicyRun
from app.views.policy_points import FULL, MEASURES, RULES, Axis
from app.views.policy_tables import COUNTED, family_text, title_text
from app.views.policy_text_tables import points_text, verdict_text
from app.views.policy_verdicts import bar_of, pareto_front, shown_first
from app.views.policy_words import assignment_text, regime_text, verdict
from app.views.tables import TextTable
from circuits.policies.catalog import POLICIES
from headscope.errors import UnsupportedError
from headscope.runs.reading import Run

_MOST_CURVES = 12
_JUDGED_BY: tuple[Axis, ...] = ("bytes", "keys")
_TYPICAL_SHARE = 0.25
POLICY_LIMITS = (
    f"{COUNTED} Weights, activations and what an implementation needs beside its cache are not in them; policies that "
    "look at some keys and drop none keep all bytes.",
    "Keys attended and operations are counted over the rows on which a policy acts: compare them only between "
    "policies that act from the same token on. Operations are those of attention alone, without softmax and "
    "projections.",
    "A policy that acts after the prompt reads the prompt with a full cache, which one that acts from the first token "
    "on never has. Where a task is a loss on text there is no prompt: every policy acts from the start, and one that "
    "picks keys when the prompt ends never drops any.",
    "The intervals are 95 % bootstrap intervals over the prompts of this run: they say nothing of other heads drawn, "
    "other seeds, texts or models. An interval without width says that all prompts agreed, not that it is certain: "
    "where none of n prompts fails, up to about 3 / n of all may.",
    "The smallest cache is the smallest of those that were tried, picked by its result on the same prompts: expect it "
    "to do slightly worse on others.",
    "Answers are teacher-forced: a token counts where it is the model's first choice after the right tokens before it.",
)


def policy_lead(run: Run) -> str:
    """What such a run set out to do, in a sentence."""
    model, config = run.manifest.model, run.manifest.config
    names = [name for name in config.get("policies", ()) if name != FULL]
    heads = f"{model.n_layers * model.n_kv_heads} key/value heads"
    tasks = config.get("tasks", ())
    return (
        f"{len(names)} {'policy' if len(names) == 1 else 'policies'} cut short what attention in {model.name} "
        f"({heads}) may keep or look at; each is compared with the full cache on {', '.join(tasks)}."
    )


def policy_finding(run: Run) -> str:
    """The verdict on the first task, at its longest length; empty where there is none yet."""
    found = PolicyRun(run)
    return verdict(found, found.tasks[0], found.lengths(found.tasks[0])[-1]) if found.tasks else ""


def policy_sections(run: Run) -> tuple[BoardSection, ...]:
    """The sections of a policies run, of the stages that are in."""
    found = PolicyRun(run)
    made = [_plan(found)]
    made += [_judged(found, task, length) for task in found.tasks for length in found.lengths(task)]
    made += [section for section in (_heads(found), _kinds(found)) if section.figures or section.tables]
    return tuple(made)


def _plan(found: PolicyRun) -> BoardSection:
    config = found.config
    lengths = ", ".join(f"{length:,}" for length in config.get("lengths", ()))
    text = [
        f"Prompts of {lengths} tokens, {config.get('examples')} of each length and task, the same for all policies; "
        "haystacks and passages are from text that no head was chosen on."
    ]
    if any(policy in POLICIES and POLICIES[policy].needs_split for policy in config.get("policies", ())):
        rules = ", ".join(RULES.get(str(rule), str(rule)) for rule in config.get("rules", ()))
        text.append(
            f"Policies that keep some key/value heads whole were given {rules}, and "
            f"{config.get('random_draws')} random choices of as many heads as a control."
        )
    if not found.tasks:
        text.append("No task is in yet.")
    return BoardSection("What was run", tuple(text), items=tuple(_verdicts_in_words(found)))


def _verdicts_in_words(found: PolicyRun) -> list[str]:
    """A sentence per task and length: the smallest cache of all, and the smallest of random heads."""
    places = [(task, length) for task in found.tasks for length in found.lengths(task)]
    return [sentence for task, length in places if (sentence := verdict(found, task, length))]


def _judged(found: PolicyRun, task: str, length: int) -> BoardSection:
    shown = shown_first(found, task, length, "bytes", _MOST_CURVES)
    points, measure = found.points(task, length), found.measure(task)
    curves = {curve: [point for point in points if point.curve == curve] for curve in shown}
    figure = pareto_figure(
        curves, order=found.curves, measure=measure, full=found.full(task, length),
        bar=bar_of(found, task, length), front=pareto_front(found, task, length, "bytes"),
    )  # fmt: skip
    here = len({point.curve for point in points}) - 1
    left = f" {len(shown)} of {here} curves; the table has all." if len(shown) < here else ""
    told = title_text(found, task, length)
    verdicts = [verdict_text(found, task, length, over) for over in _JUDGED_BY]
    block = figure_block(
        figure,
        anchor=anchor("pareto", task, str(length)),
        label=f"Bytes kept against {MEASURES[measure]}. {told}. {verdict(found, task, length)}",
        caption=f"Bars: 95 % bootstrap over prompts.{left} "
        f"{regime_text(point for own in curves.values() for point in own)}",
    )
    return BoardSection(
        f"{task}, {length} tokens",
        (f"{told}. {COUNTED}",),
        figures=(block,) if shown else (),
        tables=tuple(table for table in verdicts if table.rows),
        folded=(points_text(found, task, length),),
        is_wide=True,
    )


def _heads(found: PolicyRun) -> BoardSection:
    """A map for each rule, at the share nearest to a quarter."""
    figures = list[FigureBlock]()
    for rule in dict.fromkeys(arm.rule for arm in found.assignments):
        arms = [arm for arm in found.assignments if arm.rule == rule]
        arm = min(arms, key=lambda one: abs(one.share - _TYPICAL_SHARE))
        try:
            chosen = found.assignment(arm)
        except UnsupportedError:
            continue
        told = assignment_text(chosen)
        figures.append(figure_block(assignment_figure(chosen), anchor=anchor("heads", rule), label=told, caption=told))
    return BoardSection("Heads with a full cache", figures=tuple(figures))


def _kinds(found: PolicyRun) -> BoardSection:
    kinds = [POLICIES[name] for name in found.policies if name in POLICIES]
    rows = tuple((kind.title, family_text(kind), kind.summary, kind.source, kind.note) for kind in kinds)
    columns = ("policy", "kind", "what it does", "source", "differs from its source")
    return BoardSection("What each policy is", tables=(TextTable("Policies of this run", columns, rows, frozenset()),))
