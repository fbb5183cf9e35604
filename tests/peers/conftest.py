"""Where the peers are not installed, nothing here is collected: `make peers` builds their environment."""

from importlib.util import find_spec

PEERS = ("fla", "x_transformers", "mambapy", "linformer", "nystrom_attention", "reformer_pytorch", "minGRU_pytorch")

collect_ignore_glob = [] if any(find_spec(name) for name in PEERS) else ["*"]
