from llmos.kernel.protocol import *  # noqa: F403
