"""How much may come in from outside: bytes, depth, counts, seconds; and how much of it an error may quote.

docs/security.md explains each; tests/test_bounds.py compares its table with these numbers. A number that a person may
choose (a time-out of a planner, a duration of a motion) stands with its field, where its own limits are.
"""

from __future__ import annotations

# Files that people write: robots, scenes, rules, requests, settings, parameter files.
YAML_BYTES = 4_000_000
YAML_NODES = 200_000  # an alias counts as all that it stands for: 20,000 points of seven joints are 180,000
YAML_DEPTH = 32  # JSON too
NUMBER_CHARS = 100  # of one number in YAML or JSON; making a long one takes time that grows with its square
URDF_CHARS = 5_000_000
URDF_ELEMENTS = 50_000
URDF_DEPTH = 32
SRDF_PAIRS = 2_000  # that it disables; a URDF of 60 links has 1,770
MESH_BYTES = 50_000_000
SURFACES_BYTES = 200_000_000  # sampled, of one robot; the Panda's are 2 MB

# Pictures, judged by their headers before a pixel is decoded. Decoding takes up to 9 bytes a pixel.
IMAGE_SIDE_PX = 8192
IMAGE_PIXELS = 4096 * 4096  # of a camera's frame
IMAGE_BYTES = 64_000_000
FRAME_BYTES = 200_000_000  # unpacked, of a recorded frame: the largest picture with depth of 8 bytes
PHOTO_PIXELS = 25_000_000  # of a person's picture: a camera of 24 megapixels
PHOTO_BYTES = 64_000_000
PICTURES = 16  # that are planned on together; cameras too
JPEG_SCANS = 100  # an ordinary progressive JPEG has about ten, and each costs a pass over all pixels

# Sound.
WORDS_BYTES = 64_000_000  # spelled out, of one language
SOUND_BYTES = 64_000_000
SOUND_CHANNELS = 16
SOUND_LEAST_HZ = 4_000
SOUND_MOST_HZ = 192_000
SOUND_S = 2_000.0  # 33 minutes
UTTERANCE_S = 8.0  # an order is said in five; longer speech without a pause is not listened to

# Model servers, whatever they answer. The time is the planner's `timeout_s`.
REPLY_BYTES = 200_000
LISTING_BYTES = 1_000_000
LISTING_S = 2.0
HUB_S = 1.0  # one round trip to the hub; its client alone would try for half a minute
REPLY_CHARS = 20_000  # of the model's text in it

# Checkpoints.
CONFIG_BYTES = 4_000_000  # each of a checkpoint's small JSON files
TOKENIZER_BYTES = 64_000_000
TENSORS_HEADER_BYTES = 4_000_000  # of a safetensors file; the largest part of a 72B model has 0.1 million

# The graph and the command line.
INSTRUCTION_CHARS = 500
DIGEST_CHARS = 128  # of an approval
REASON_CHARS = 300  # of a no
BODIES = 100  # zones and objects, each, of a request, a cell or a scene
SEGMENTS = 1_000  # of a request's motion
JOINTS = 256  # names in joint_states or in a trajectory
TRAJECTORY_POINTS = 100_000
TRANSFORMS = 2_000  # tf frames that are remembered
DISTORTION_TERMS = 64  # of a camera_info; a rational polynomial has 14
NAME_CHARS = 500  # of a parameter, a model, a server's address or a tf frame

# Shards of samples for a training.
SHARD_BYTES = 2_000_000_000
SHARD_SAMPLES = 100_000

# Bags. Ours have chunks of a few megabytes: a frame of the largest camera is one message.
BAG_CHUNK_BYTES = 256_000_000  # unpacked; a record of another kind too

# What an error may quote, and its own length.
ERROR_CHARS = 1_000
SHOWN_CHARS = 200  # of a name or of foreign text
VALUE_CHARS = 40  # of a value in a file: enough to find it there, too little to print a file


def shown(text: object, most_chars: int = SHOWN_CHARS) -> str:
    """Foreign text as one short line: printable, without the white space around it, and cut.

    >>> shown("a" * 50 + chr(27), 10), shown("two\\nlines")
    ('aaaaaaa...', 'two lines')
    """
    head = str(text)[: 4 * most_chars]
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    is_cut = len(line) > most_chars or len(head) < len(str(text))
    return line[: most_chars - 3] + "..." if is_cut else line
