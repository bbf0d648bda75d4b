"""One command of a search: plan, data, memory, trials, and the bundle to deploy."""

from pathlib import Path

from ctray.console import error_console, print_store
from ctray.data.ingest.opening import known_store, open_or_prepare
from ctray.data.store import Store
from ctray.process import import_meanwhile
from ctray.session import ray_session
from ctray.training.plan import Plan, make_plan
from ctray.words import counted
from tuning.board import Board
from tuning.disk import embedded_data, study_folder
from tuning.memory import Memory
from tuning.run import run_trials
from tuning.samplers import make_sampler
from tuning.scope import Scope, fit_scope, read_scope
from tuning.settings import SearchSettings
from tuning.study import Study
from tuning.tracking import followed
from tuning.trials import Trial


def search(settings: SearchSettings, command: str) -> Path:
    """Run a search, or resume it; returns the folder of the bundle to deploy.

    Args:
        settings: what is searched, and how.
        command: as it was given, for the page of the study.

    Raises:
        UserError: a setting cannot work, or no trial gave a model.
    """
    if settings.data is None:
        print("no --data: searching on the embedded synthetic data; its figures mean nothing")
    scope = read_scope(settings)
    known = None if settings.data is None else known_store(settings.data, settings.out / "store")
    if known is not None:
        scope = print_fit(scope, known)
    with (
        study_folder(settings.out, scope.subject) as study_id,
        # What Optuna's storage imports when it opens.
        import_meanwhile("alembic.command"),
        ray_session(settings.verbose),
    ):
        plan = plan_trials(settings, scope)
        store = known or open_data(settings)
        print_store(store)
        if known is None:
            scope = print_fit(scope, store)
        study = Study(
            id=study_id,
            memory=open_memory(settings, scope, store, study_id),
            space=scope.space,
            base=scope.base,
            objectives=scope.objectives,
            store=store,
            out=settings.out.resolve(),
            plan=plan,
            latency_budget_ms=settings.latency_budget_ms,
        )
        trials = run(study, scope)
        # matplotlib, torch: seconds, which the trials need not wait for.
        from tuning.finish import finish

        return finish(study, trials, settings.choose, settings.refit, command)


def print_fit(scope: Scope, store: Store) -> Scope:
    """The scope as it fits the store's records; prints what had to be changed."""
    fit, said = fit_scope(scope, store)
    for line in said:
        print(line, flush=True)
    return fit


def plan_trials(settings: SearchSettings, scope: Scope) -> Plan:
    """Work out and print who gets which CPUs and GPUs, and how many trials there will be."""
    at_most = scope.limits.trials
    plan = make_plan(
        workers=settings.workers_per_trial,
        runs=settings.side_by_side,
        at_most=at_most,
        gpu_share=settings.gpus_per_trial,
    )
    count = (
        f"{at_most} trials" if at_most else f"as many trials as fit into {settings.time_budget},"
    )
    most = counted(scope.base.epochs, "epoch")
    print(f"plan: {count} of at most {most}, {plan}", flush=True)
    if scope.sampler == "grid":
        print(f"{at_most} of the {scope.combinations} combinations of this space, none twice")
    is_alone = plan.runs == 1 and settings.side_by_side is None
    if is_alone and not plan.gpu and at_most != 1:
        print("one trial at a time: two would share the cores, and know less of each other")
    return plan


def open_data(settings: SearchSettings) -> Store:
    """Open the store that is searched on, made first where a folder was given."""
    out, data = settings.out, settings.data
    folder = embedded_data(out, settings.seed) if data is None else data
    return open_or_prepare(folder, out / "store")


def open_memory(settings: SearchSettings, scope: Scope, store: Store, study_id: str) -> Memory:
    """Open the study's storage, and put the points into it that are tried first."""
    out, space = settings.out, scope.space
    memory = Memory(
        storage=settings.storage or f"sqlite:///{(out / 'optuna.db').resolve()}",
        name=settings.study_name or out.resolve().name,
        space=space,
        objectives=scope.objectives,
        make_sampler=lambda begun: make_sampler(
            scope.sampler, settings.seed + begun, settings.objective
        ),
        about=scope.subject | {"fingerprint": store.fingerprint, "owner": study_id},
    )
    # Its storage knows this study by its id: from now on the folder stays.
    (out / "trials").mkdir(exist_ok=True)
    first = space.point(scope.base)
    if not first or set(first[0]) != set(space.active(first[0])):
        print(
            f"no trial has all values of the recipe {settings.recipe}: some lie outside this space"
        )
    memory.enqueue([*first, *scope.warm])
    return memory


def run(study: Study, scope: Scope) -> list[Trial]:
    """Run the trials, shown on the terminal and, where it is asked for, in MLflow."""
    with (
        Board(error_console(), study.objectives[0], study.base.epochs) as board,
        followed(board, study.out.name, study.id, scope.subject) as listener,
    ):
        return run_trials(study, scope.limits, listener)
