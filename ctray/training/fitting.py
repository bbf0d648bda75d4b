"""A recipe as it is trained on these records: what nobody set gives way to how few there are.

Nothing here needs Ray, so that a command can say all of it before Ray starts.
"""

from collections.abc import Collection

from ctray.config import Recipe
from ctray.data.batches import batch_that_fits, steps_per_epoch
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.words import counted


def with_short_refit(recipe: Recipe, given: Collection[str]) -> Recipe:
    """The recipe with a refit that is no longer than the training, unless its length is `given`.

    Who asks for one epoch wants to see something soon.
    """
    if "refit_epochs" in given:
        return recipe
    return recipe.model_copy(update={"refit_epochs": min(recipe.refit_epochs, recipe.epochs)})


def check_records(recipe: Recipe, store: Store) -> None:
    """Raise UserError when a store cannot be trained on with this recipe, at any plan."""
    for split in ("train", "val"):
        if len(store.records(split)) == 0:
            # A store does not say whether its splits were given or drawn.
            raise UserError(
                f"the {split} split is empty: prepare the data again with records in it, where "
                "splits are given, or else with at least three patients in a class"
            )
    steps_per_epoch(len(store.records("train")), recipe.batch_size)


def fitted(recipe: Recipe, given: Collection[str], store: Store) -> Recipe:
    """The recipe with a batch that the training split fills.

    Args:
        recipe: as it was asked for.
        given: names of the settings that the user set: those stay as they are.
        store: what is trained on.

    Raises:
        UserError: a batch that was given is larger than the training split, or a split is empty.
    """
    records = len(store.records("train"))
    if records < recipe.batch_size and "batch_size" not in given:
        recipe = recipe.model_copy(update={"batch_size": batch_that_fits(records)})
    check_records(recipe, store)
    return recipe


def schedule(recipe: Recipe, asked: Recipe, store: Store) -> str:
    """What will be trained on how many records, for people.

    Args:
        recipe: from `fitted`.
        asked: the recipe before.
        store: what is trained on.
    """
    train, val = (len(store.records(split)) for split in ("train", "val"))
    most = "at most " if recipe.patience else ""
    text = (
        f"{most}{counted(recipe.epochs, 'epoch')} on {counted(train, 'training record')} in "
        f"batches of {recipe.batch_size}"
    )
    if recipe.batch_size != asked.batch_size:
        text += f" (the default of {asked.batch_size} is more than there are)"
    if recipe.refit_epochs:
        text += (
            f", then a refit of {counted(recipe.refit_epochs, 'epoch')} on these and the "
            f"{counted(val, 'validation record')}"
        )
    return text
