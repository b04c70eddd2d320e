"""The init container that fills a fresh disk with the home of the image, once.

The home of a sandbox is a folder of the disk, so that it does not have what is at the root of a file system (`lost+found`).
The folder gets its name only when it is complete: a pod that ends before that starts the copy again, and a pod that finds
the folder copies nothing.
"""

import copy
from typing import Any

CONTAINER = "copy-image-home"
FAILS = "the fresh disk cannot be filled from the image (a sandbox with copy_image_home=false needs no filling)"
DISK = "/sandbox-disk"
"""Where the init container mounts the whole disk."""

# Uses only a shell and the file tools that every image with a shell has. Files of the image that the sandbox's user may not
# read are left out: it could not read them in the home either. Any other failure, such as a full disk, is reported.
SCRIPT = r"""set -f
LC_ALL=C
export LC_ALL
image=$1 home=$2 part=$2.part
[ -e "$home" ] && exit 0
if [ -e "$part" ]; then
  chmod -R u+rwx "$part" && rm -rf "$part" || exit 1
fi
mkdir "$part" || exit 1
if [ -d "$image" ]; then
  said=$(cp -a "$image/." "$part/" 2>&1) || {
    [ -n "$said" ] || said="cp failed"
    IFS='
'
    for line in $said; do
      case $line in
      *"Permission denied"* | *"preserve ownership"*) ;;
      *)
        echo "the image's $image cannot be copied to the disk: $line" >&2
        exit 1
        ;;
      esac
    done
  }
fi
chmod u+rwx "$part" && mv "$part" "$home"
"""


def container(own: dict[str, Any], volume: str, home: str, folder: str) -> dict[str, Any]:
    """Returns the init container that fills `folder` of the disk `volume` with the image's `home`.

    It has the image, resources and security context of the sandbox's `own` container, and nothing of its environment.
    """
    kept = {
        name: copy.deepcopy(own[name]) for name in ("image", "terminationMessagePolicy", "resources", "securityContext")
    }
    command = ["/bin/sh", "-c", SCRIPT.replace("$", "$$"), CONTAINER, home, f"{DISK}/{folder}"]
    return {"name": CONTAINER, **kept, "command": command, "volumeMounts": [{"name": volume, "mountPath": DISK}]}
