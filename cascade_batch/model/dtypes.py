"""What the stages can be computed in: the dtypes' names, what `auto` is, and why Stage C has no float16."""

from cascade_batch.errors import CascadeError

AUTO = "auto"
STAGE_C = ("float32", "bfloat16")
STAGES_BA = (*STAGE_C, "float16")


def settled_dtype(asked: str, *, on_cpu: bool) -> str:
    """`auto` is bfloat16 on an accelerator, and float32 on a CPU, where bfloat16 is slow or emulated."""
    if asked != AUTO:
        return asked
    return "float32" if on_cpu else "bfloat16"


def refuse_float16(dtype: str, kind: type[CascadeError], where: str = "") -> None:
    """Raise an error of this kind for Stage C in float16."""
    if dtype == "float16":
        raise kind(
            "Stage C cannot run in float16",
            where=where,
            got=dtype,
            expected=", ".join((AUTO, *STAGE_C)),
            next_step="its hidden states outgrow float16: they overflow in the last block group, and images are black "
            "or NaN; use bfloat16 (Stage B and A may use float16: --set model.dtype.ba=float16)",
        )
