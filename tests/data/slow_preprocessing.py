"""Plan and preprocess, a second a case, so that the test that starts it can step in.

``python slow_preprocessing.py SECONDS``; a line is written when a case is finished.
"""

import sys
import time

from tiny_study import DATASET, TINY


def main() -> int:
    from graphnn_unet.commands.plan_and_preprocess import main as command
    from graphnn_unet.data import preprocess

    work = preprocess._preprocess_case

    def slowly(job):
        work(job)
        print(job.case, flush=True)
        time.sleep(float(sys.argv[1]))

    preprocess._preprocess_case = slowly
    return command(["-d", DATASET, "-c", "3d_fullres", "-np", "1", "--set", *TINY])


if __name__ == "__main__":
    sys.exit(main())
