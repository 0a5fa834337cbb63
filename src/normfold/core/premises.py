"""The premises of every fold: a closed list of typed constants, each with what it states.

A refusal names one of them, in ``refused_by`` and in JSON by its text. Laws and rules state them as data, and the
backends' lifts refuse by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.records import Premise

AFFINE: Final = Premise("affine", "The operation is an affine map of its input: `k / x` is not.")
AVERAGES: Final = Premise("averages", "What is done to positions is an average or an interpolation, not a maximum.")
BIAS_RANGE: Final = Premise(
    "bias-range",
    "A quantised bias leaves headroom in the int32 accumulator: its codes stay within 2^30.",
    "Fold the float model, then quantise it: a bias is rounded to int32 anew there.",
)
BOUNDED_ERROR: Final = Premise(
    "bounded-error",
    "What a conversion leaves out is next to nothing while the condition that it states holds.",
    "Ask for another kind.",
)
CALIBRATION_DATA: Final = Premise(
    "calibration-data",
    "There are inputs to fit a norm to whose conversion is approximate.",
    "Name unlabelled inputs with --calibrate.",
)
CALLED_ONCE: Final = Premise(
    "called-once",
    "A module that changes is called once, and nothing else reads its weight.",
    "Give each call a module and a weight of its own, or fold the exported ONNX model, where calls are apart.",
)
CODE_RANGE: Final = Premise(
    "code-range",
    "The negated codes of a quantised weight fit its type: that of -128 does not fit int8.",
    "Quantise with codes from -127 to 127, or fold the float model before it is quantised.",
)
CONSTANT: Final = Premise(
    "constant",
    "Weights and constants are known before the model runs: stored, or arithmetic on stored ones.",
    "Export in evaluation mode with constants folded, so that weights are stored and not computed.",
)
CONVERTIBLE: Final = Premise(
    "convertible",
    "There is a conversion from the norm's kind to the one asked for.",
    "Leave it out with --skip, or ask for another kind.",
)
DOES_NOT_PAY: Final = Premise(
    "does-not-pay",
    "The fold inserts nothing that costs more than what it removes.",
    "Leave it: on this execution provider the norm costs less. --allow-inserted folds it all the same.",
)
EVAL_MODE: Final = Premise(
    "eval-mode",
    "The module is in evaluation mode: its norms use their running statistics, its dropouts do nothing.",
    "Call model.eval() before folding.",
)
EVERY_TAP: Final = Premise(
    "every-tap",
    "Every output position sums every tap: no zeros of a padding take part where a shift has to pass.",
    "Set the padding to 0 and pad the image before the norm, or train with the norm behind the convolution.",
)
FINITE: Final = Premise(
    "finite",
    "Every constant of the map is finite: a variance plus epsilon of zero gives infinity.",
    "Check the running variance: dead channels with an epsilon of 0 divide by zero.",
)
FIXED_PATH: Final = Premise(
    "fixed-path",
    "What changes is used in one way, whatever the values in the inputs and the size of their batch.",
    "Export to ONNX or with torch.export, which record one path, and fold that.",
)
FIXED_STATISTICS: Final = Premise(
    "fixed-statistics",
    "The norm's statistics are constants, not computed from each input.",
    "This kind of norm measures each input: nothing to mend in the file.",
)
FLOATING_POINT: Final = Premise("floating-point", "The constants are of a floating type.")
HAS_KERNEL: Final = Premise(
    "has-kernel",
    "ONNX Runtime has a kernel for the operator that a decomposed norm becomes, in its type.",
    "Leave it as it is written, or convert the model to float32 first.",
)
INFERENCE_MODE: Final = Premise(
    "inference-mode",
    "The norm or dropout is in inference mode: no training_mode, no outputs of the training form.",
    "Export anew in evaluation mode (model.eval(); training=TrainingMode.EVAL).",
)
KNOWN_PARTS: Final = Premise(
    "known-parts",
    "The sizes of the parts of a Concat along its axis are known.",
    "Name the input's sizes with --shape, so that the parts of the Concat are known.",
)
KNOWN_RANK: Final = Premise(
    "known-rank",
    "The number of dimensions of the norm's input is known, so that its channel axis is.",
    "Name the input's sizes with --shape.",
)
KNOWN_SIZES: Final = Premise(
    "known-sizes",
    "The sizes of the axes along which a decomposed norm gets a scale are known.",
    "Name the input's sizes with --shape.",
)
LINEAR_CONSUMER: Final = Premise(
    "linear-consumer", "Every operation that reads the norm's output, directly or along a route, can absorb it."
)
LINEAR_PRODUCER: Final = Premise(
    "linear-producer", "The operation that makes the norm's input, directly or along a route, can absorb it."
)
MATRIX: Final = Premise(
    "matrix",
    "The constant operand of a matrix product is a matrix, and the other one has a known rank.",
    "Name the input's sizes with --shape where the rank is unknown.",
)
MEANINGFUL: Final = Premise(
    "meaningful",
    "What one kind of norm computes can be computed by the other kind at all.",
    "Ask for a kind that the table in docs/convert.md gives for it.",
)
NEEDS_STRUCTURE: Final = Premise(
    "needs-structure",
    "The fold only sets constants and takes modules out: a module tree can express no more.",
    "Export to ONNX or use normfold.fold_program: a graph can be changed where a module tree cannot.",
)
NO_HOOKS: Final = Premise(
    "no-hooks",
    "No hook sees, or changes, what goes in and out of a module that changes.",
    "Remove the hooks before folding and put them back after.",
)
NO_SCALE: Final = Premise(
    "no-scale", "Only a shift passes an addition whose other branch does not have the same scale."
)
NO_SHIFT: Final = Premise("no-shift", "Only a scale passes an activation or a product.")
NON_NEGATIVE_SCALE: Final = Premise(
    "non-negative-scale", "No scale is negative where an activation or a maximum lies on the route."
)
NONZERO_ROWS: Final = Premise(
    "nonzero-rows",
    "No output channel of a weight that is to be normalised is zero, or so small that its square is.",
    "Leave the norm out with --skip, or prune the channel first: a weight norm divides by its length.",
)
NORMAL_SCALE: Final = Premise(
    "normal-scale",
    "The new scale of a quantised weight is a normal, not a subnormal, number of its type.",
    "Fold the float model, then quantise it.",
)
NOT_LOOKED_AT: Final = Premise(
    "not-looked-at",
    "Only the call of a norm's module matters to the code around it, not its class or its attributes.",
    "Store what the code asks the norm for beside it, as in self.eps = self.bn.eps, and fold again.",
)
NOT_OUTPUT: Final = Premise(
    "not-output",
    "A value whose content changes is not an output of its graph and is not read inside a subgraph.",
    "Take the value off the graph's outputs if nobody reads it there.",
)
NOT_OVERRIDABLE: Final = Premise(
    "not-overridable",
    "An initializer is not at the same time a model input, which a caller could override.",
    "Take the initializer off the graph's inputs (IR version 4 and newer need none there).",
)
NOT_OVERWRITTEN: Final = Premise(
    "not-overwritten",
    "Where a value is changed in place after a norm, nobody else reads it.",
    "Write the operation out of place (inplace=False).",
)
NOT_PADDED_AXIS: Final = Premise("not-padded-axis", "The map does not vary along an axis that a Pad pads.")
NOT_POOLED_AXIS: Final = Premise("not-pooled-axis", "The map does not vary along an axis that is pooled or resampled.")
NOT_SUMMED_AXIS: Final = Premise(
    "not-summed-axis", "A scale does not vary along the axis that a product of two values sums over."
)
ONE_AXIS: Final = Premise(
    "one-axis",
    "A norm whose mean is taken out before it takes the mean over one axis.",
    "Leave it out with --skip, or ask for another kind.",
)
ONE_GROUP: Final = Premise(
    "one-group", "The channels that a mean is taken over are outputs of one matrix, not of groups."
)
OPSET_HAS_OPERATOR: Final = Premise(
    "opset-has-operator",
    "The model's opset has the operator that a decomposed norm becomes.",
    "Export with a newer opset.",
)
PADDED_SHIFT: Final = Premise(
    "padded-shift", "A shift before an operation that pads can stand alone before it, or its response can after it."
)
PARAMETER_UNTIED: Final = Premise(
    "parameter-untied",
    "A tensor that changes belongs to one module only.",
    "Give each module a parameter of its own (clone it), or fold the exported ONNX model.",
)
PER_AXIS_SCALE: Final = Premise(
    "per-axis-scale",
    "A quantised weight may have a scale for each channel (opset 13 or newer), or needs one only.",
    "Convert the model to opset 13 or newer, or quantise per channel.",
)
PER_CHANNEL_STATISTICS: Final = Premise(
    "per-channel-statistics",
    "A BatchNormalization has statistics for each channel, not for each element (spatial=0).",
    "Export anew: spatial=0 is gone since opset 9.",
)
PER_INPUT_CHANNEL: Final = Premise(
    "per-input-channel", "The map varies along the input channels of the linear operation only."
)
PER_OUTPUT_CHANNEL: Final = Premise(
    "per-output-channel", "The map varies along the output channels of the linear operation only."
)
PLAIN_NORM: Final = Premise(
    "plain-norm",
    "The module of a norm normalises and then calls its children one after another, nothing else.",
    "Use normfold.fold_program or fold the exported ONNX model: operations are apart there.",
)
REPRESENTABLE: Final = Premise(
    "representable",
    "The new constants fit the type they are stored in.",
    "Fold in float32 and convert to the smaller type afterwards.",
)
ROOM: Final = Premise(
    "room", "An operation's own scale and bias have room for the map: its axes, and a bias for a shift."
)
ROW_AXIS: Final = Premise("row-axis", "A table is read by index along its first axis, so that every row is read whole.")
RUNNING_STATISTICS: Final = Premise(
    "running-statistics",
    "A norm keeps running statistics, and does not normalise by those of the batch.",
    "Train with track_running_stats=True, or run a few batches in training mode to make the statistics.",
)
SAME_CHANNELS: Final = Premise("same-channels", "Branches that are merged have the same channels, in the same groups.")
SAME_CODES: Final = Premise(
    "same-codes",
    "A quantised weight gets one scale for all input channels that meet in an output.",
    "Fold the float model before it is quantised.",
)
SAME_GROUP: Final = Premise("same-group", "A channel that changes places stays in its group.")
SAME_IN_GROUP: Final = Premise(
    "same-in-group", "A bias before a norm is the same for all channels that share a mean, which subtracts it."
)
SAME_INPUT: Final = Premise("same-input", "Branches that are merged read the same value.")
SAME_GROUPS: Final = Premise(
    "same-groups",
    "A norm becomes a GroupNorm of as many groups as it normalises.",
    "Leave the number of groups out.",
)
SAME_OPSET: Final = Premise(
    "same-opset",
    "A local function that holds norms uses the model's own opset, so that it can be inlined.",
    "Inline the function, or export model and functions with one opset.",
)
SAME_SCOPE: Final = Premise(
    "same-scope",
    "Norm and linear operation stand in the same graph body, not one inside a branch or a loop.",
    "Move the norm to the same side of the branch or loop as its convolution.",
)
SAME_SHAPE: Final = Premise(
    "same-shape",
    "A constant broadcasts against the value without enlarging it.",
    "Name the input's sizes with --shape; below opset 7, convert the model to a newer one.",
)
SAME_WINDOW: Final = Premise(
    "same-window", "Branches that are merged have the same window: each tap of one is a tap of the other."
)
SCALE_AXIS: Final = Premise(
    "scale-axis",
    "The scales of a quantised weight follow its output channels; groups that share scales get the same.",
    "Fold the float model before it is quantised.",
)
SELECTED: Final = Premise(
    "selected",
    "The norm was not left out by --only or --skip.",
    "Change --only or --skip to fold it.",
)
SHORT_ROUTE: Final = Premise(
    "short-route", "The route from the norm to what absorbs it has a bounded number of operations."
)
SINGLE_USE: Final = Premise(
    "single-use",
    "Nothing else reads a value whose content changes.",
    "Nothing to mend in the file: another reader needs the value as it is now.",
)
STATIC_RESHAPE: Final = Premise(
    "static-reshape",
    "The operation that moves elements takes whole channels to known places.",
    "Name the input's sizes with --shape, so that the reshape's are known.",
)
TRAINING_ASKED: Final = Premise(
    "training-asked",
    "A conversion after which the model computes something else was asked for as a start for training.",
    "Pass --needs-training if you are going to train the result.",
)
TRAILING_AXES: Final = Premise(
    "trailing-axes", "A decomposed norm normalises the last axes, as the operator that it becomes does."
)
UNIFORM_BOUNDS: Final = Premise(
    "uniform-bounds", "A Clip gets the same new bounds for every channel, a Max or Min new ones on its own side."
)
UNIFORM_PADDING: Final = Premise("uniform-padding", "A Pad gets the same new padding value for every channel.")
UNIFORM_SCALE: Final = Premise("uniform-scale", "A mean over channels passes a scale that is the same for all of them.")
UNROUNDED_INPUT: Final = Premise(
    "unrounded-input",
    "The input of a product with a quantised weight is not rounded to integers on the way in.",
    "Set its accuracy_level to 1 (float32), or fold the float model before it is quantised.",
)
UNCONDITIONED: Final = Premise(
    "unconditioned",
    "The norm's scale and shift are constants, not computed from another input as in AdaIN, FiLM and AdaLN.",
    "What is computed for each input stays: fix that input to a constant where it never varies.",
)
UNSHARED_WEIGHT: Final = Premise(
    "unshared-weight",
    "A scale that is no norm does not go into a weight that other operations read as well, unless a copy is small.",
    "Leave it: a copy of the weight for each of its readers takes more room than the scale.",
)
VERIFICATION_FAILED: Final = Premise(
    "verification-failed",
    "The folded model agreed with its source when this norm was folded.",
    "Please report it with the model: the norm was kept, and the rest is proven.",
)
WELL_CONDITIONED: Final = Premise(
    "well-conditioned", "Undoing a map for other readers of a value cancels few of its significant digits."
)
WELL_FORMED: Final = Premise(
    "well-formed",
    "An operation's constants and attributes fit each other and its input.",
    "Check the model with onnx.checker and export it again.",
)
WITHIN_BUDGET: Final = Premise(
    "within-budget",
    "Among the norms that are converted approximately, it is not one whose error the budget has no room for.",
    "Allow more with --max-drop, calibrate on more inputs, or distil.",
)
WHOLE_CODES: Final = Premise(
    "whole-codes",
    "A quantised weight has integer codes of 4, 8 or 16 bits, its quantised bias of 32 bits.",
    "Fold the float model before it is quantised.",
)

PREMISES: Final[Mapping[Premise, str]] = {
    premise: premise.statement for premise in tuple(globals().values()) if isinstance(premise, Premise)
}
"""Every premise and what it states, in the order of their names."""
