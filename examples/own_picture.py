"""Your own RGB-D picture → scene, motion and verdict. Run it: python examples/own_picture.py"""

from pathlib import Path

import numpy as np

import qwen2vl_robot as qr

if __name__ == "__main__":  # the twin runs in processes of its own
    data = np.load(Path(__file__).with_name("frame.npz"))  # rgb (h, w, 3) uint8, depth in mm, K (3, 3), T_base_camera
    depth_m = np.where(data["depth_mm"] > 0, data["depth_mm"] / 1000.0, np.nan).astype(np.float32)
    (fx, _, cx), (_, fy, cy), _ = data["K"]
    height_px, width_px = depth_m.shape
    camera = qr.Intrinsics(width_px, height_px, fx, fy, cx, cy)
    frame = qr.CameraFrame(0, data["rgb"], depth_m, camera, data["T_base_camera"])
    robot = qr.load_robot("franka_panda")
    state = qr.RobotState(0, data["q_rad"], np.zeros(7), gripper_width_m=0.08)
    with qr.PlannerProcess() as planner:
        plan = planner.plan(qr.Observation(frame, state), qr.Instruction("pick up the red block"), ())
    surroundings = qr.Surroundings.of(robot)
    scene, actions = qr.perceive(plan, qr.Observation(frame, state), surroundings)
    motion = next(qr.MotionMaker(robot, surroundings.rules).ways(actions[0], scene, state))
    verdict = qr.rehearse(motion, scene, state, robot)
    print([action.describe() for action in plan.actions], [body.name for body in scene.bodies()])
    print(f"{motion.duration_s:.1f} s,", "accepted" if verdict.accepted else verdict.explanation, verdict.trials)
