"""What whoever deploys a bundle should be told of it in a line."""

from ctray.artefact.parts import BundleInfo

# Of the way from guessing to no error, as Cohen's kappa measures it; up to here Landis and Koch
# (Biometrics 1977) call agreement slight. A multiple of what guessing gives would not do: of two
# classes, twice that is no error at all.
LEAST_SKILL = 0.2


def caveats(info: BundleInfo) -> list[str]:
    """Sentences about a bundle, such as that its data are synthetic; mostly there are none."""
    found = []
    if info.synthetic:
        found.append("it was trained on synthetic images: its answers say nothing about patients")
    # Who guesses, by the classes' shares or alike, has this macro-F1, and so has a constant answer
    # at most.
    guessed = 1 / len(info.classes)
    scored = info.metrics["val_macro_f1"]
    if scored - guessed < LEAST_SKILL * (1 - guessed):
        found.append(
            f"its macro-F1 on validation records is {scored:.2f}, and guessing among "
            f"{len(info.classes)} classes gives {guessed:.2f}: it has learned little or nothing"
        )
    return found
