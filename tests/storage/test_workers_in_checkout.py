"""Workers of an installed package, started in a folder that holds a bare checkout of it."""

import subprocess
import sys


def test_workers_do_not_take_the_current_folder_for_the_package(tmp_path):
    bare = tmp_path / "checkout" / "graphnn_unet"
    bare.mkdir(parents=True)
    (bare / "__init__.py").write_text("raise ImportError('the bare checkout was imported')\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from graphnn_unet.data.check_files import check_case_images\n"
        "from graphnn_unet.storage.processes import run_jobs\n"
        "if __name__ == '__main__':\n"
        "    jobs = [['a.nii.gz'], ['b.nii.gz'], ['c.nii.gz']]\n"
        "    outcomes = list(run_jobs(check_case_images, jobs, n_workers=2))\n"
        "    assert len(outcomes) == 3, outcomes\n"
        "    assert all(o.ok or o.expected for o in outcomes), [o.error for o in outcomes]\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "checkout",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
