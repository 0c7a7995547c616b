"""The library of "Learning the Support".

To see how the experiments run, read in this order; it takes one sitting:

* ``optimizers``  gradient descent, SGD and its samplers: the step, written out
* ``models``      networks as torch modules, one or many at once, and how they are initialised
* ``engine``      ``train``: ensembles of independent runs in one call
* ``support``     which inputs the first layer uses; how the layers share the work

Shelves, where each function stands alone and is read when it is needed:

* ``data``        planted problems whose irrelevant inputs are irrelevant to rounding; ``downloads`` fetches real ones
* ``theory``      the closed forms that chapters compare with, one function per formula
* ``figures``      the data, networks and units of the paper's figures
* ``sharpness``   largest eigenvalue of the Hessian, over all data and over batches

Behind the engine: ``routes`` takes the steps, by torch or by the machine code of ``compiled``.
Behind the pages: ``checks`` judges and fills the ledger; ``explore`` draws figures and sliders.

Fixed for the whole book: float64, loss ``1/(2n) sum (f(x) - y)^2``, and entry 0 of every
record is the state before the first step.
"""
