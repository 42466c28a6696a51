"""`python -m qwen2vl_robot` → the same commands as the console script, for callers that know only the interpreter."""

from qwen2vl_robot.cli import main

if __name__ == "__main__":
    main()
