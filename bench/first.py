"""Prints the seconds of processor time that the first call of `train` takes in a fresh process, imports apart."""

import time

from bench.cases import engine, linear

if __name__ == "__main__":
    problem = linear(1)
    start = time.process_time()
    engine(problem, 1)
    print(time.process_time() - start)
