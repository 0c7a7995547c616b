"""The library of "Learning the Support", small enough to read in one sitting.

Read in this order:

* ``data``        planted problems whose irrelevant inputs are irrelevant to rounding
* ``optimizers``  gradient descent, SGD and its samplers: the step, written out
* ``theory``      the closed forms that chapters compare with, one function per formula
* ``checks``      judgements that measure, requirements that raise; the ledger is made of them
* ``explore``     figures and sliders; the only module that draws

Fixed for the whole book: float64, loss ``1/(2n) sum (f(x) - y)^2``, and entry 0 of every
record is the state before the first step.
"""
