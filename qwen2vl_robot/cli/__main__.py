"""`python -m qwen2vl_robot.cli` → the same commands as the console script."""

from qwen2vl_robot.cli import main

if __name__ == "__main__":
    main()
