"""What is run at the hosts, by ssh, to make and look after replicas: QEMU's own tools, and what every Debian has."""

from mudanza.hypervisor.reigns import REFUSE_OLD

TOOLS = """
for tool in qemu-img qemu-io qemu-nbd awk sync; do
  command -v "$tool" >/dev/null || { echo "there is no $tool (Debian: qemu-utils)" >&2; exit 1; }
done
echo "@ user $(id -u)"
"""
# A number in a line of QEMU's map.
_FIELD = """function field(name) {
  if (!match($0, "\\"" name "\\": [0-9]+")) exit 1
  return substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4)
}"""
# What QEMU's map of a served disk says to hold no data is, asked about a bitmap, what the bitmap says has changed.
CHANGED = (
    """
map=$(qemu-img map --output=json --image-opts \\
  "driver=nbd,server.type=unix,server.path=$socket,export=$disk,x-dirty-bitmap=qemu:dirty-bitmap:$bitmap") || exit 1
echo "$map" | awk '
"""
    + _FIELD
    + """
/"data": false/ { print "@ changed", field("start"), field("length") }'
"""
)
# What was set aside stands upon the disk, which the guest writes to. It is to stand upon nothing of the same size.
UPON_NOTHING = """
qemu-img rebase -q -u -t unsafe -f qcow2 -F raw -b "json:$nothing" -- "$file"
"""
# What the image itself has, and not what it stands upon.
CHANGED_ASIDE = (
    """
map=$(qemu-img map --output=json -f qcow2 -- "$file") || exit 1
echo "$map" | awk '
"""
    + _FIELD
    + """
/"depth": 0,/ { print "@ changed", field("start"), field("length") }'
"""
)
# What was set aside is served as long as this shell is there.
SERVE_ASIDE = """
set --
while IFS= read -r word; do set -- "$@" "$word"; done <<EOF
$words
EOF
qemu-storage-daemon "$@" >/dev/null &
server=$! tries=0
while [ ! -S "$socket" ]; do
  kill -0 "$server" 2>/dev/null && [ "$tries" -lt 600 ] || { echo "what was set aside is not served" >&2; exit 1; }
  tries=$((tries + 1)); sleep 0.05
done
"""
SERVES_ASIDE = """
if command -v qemu-storage-daemon >/dev/null; then echo "@ serves"; fi
"""
# The way to the source's disk, as QEMU's options: told as what it is below, by the prefix, and held to a rate if there
# is one.
_WAY = """
way() {
  if [ -n "$rate" ]; then
    printf '%s' "$1driver=throttle,$1throttle-group=cap,"
    set -- "$1file."
  fi
  printf '%s' "$1driver=nbd,$1server.type=unix,$1server.path=$socket,$1export=$disk"
}
cap=
[ -z "$rate" ] || cap="--object throttle-group,id=cap,x-bps-total=$rate"
"""
_AWAIT = """
umask 066 # a guest's QEMU has to get through the directories, and has its files given by libvirt
mkdir -p -- "$directory" || exit 1
tries=0
while [ ! -S "$socket" ]; do
  [ "$tries" -lt 600 ] || { echo "the source's disks do not come through" >&2; exit 1; }
  tries=$((tries + 1)); sleep 0.1
done
cd -- "$directory" || exit 1
rm -f -- "$file"
"""
# Whoever waits is told as often as the image has grown.
_TELLING = """
(
  while sleep 1; do
    grown=$(stat -c %b -- "$file" 2>/dev/null)
    [ "$grown" = "$told" ] || echo "@ grown $grown"
    told=$grown
  done
) &
teller=$!
trap 'kill $teller 2>/dev/null' EXIT
"""
EVERYTHING = f"""{_AWAIT}{_TELLING}{_WAY}
qemu-img create -q -f qcow2 -- "$file" "$size" || exit 1
qemu-img convert $cap -n -W -m 8 --image-opts "$(way)" -O qcow2 "./$file" || exit 1
sync -- "$file" .
echo "@ brought $(($(stat -c %b -- "$file") * 512))"
"""
# The image stands upon the source's disk for a moment: what is read of it then is copied into it, and nothing else.
CHANGES = f"""{_AWAIT}{_TELLING}{_WAY}
qemu-img create -q -f qcow2 -- "$file" "$size" || exit 1
image="driver=qcow2,file.driver=file,file.filename=./$file,$(way backing.)"
said=$(echo "$reads" | qemu-io $cap -C --image-opts "$image" 2>&1) || {{ echo "$said" >&2; exit 1; }}
said=$(echo "$said" | sed 's/qemu-io> //g' | grep .)
[ -z "$said" ] || {{ echo "$said" >&2; exit 1; }}
qemu-img rebase -q -u -f qcow2 -F qcow2 -b "$below" -- "$file" || exit 1
said=$(qemu-img info -U -f qcow2 --backing-chain -- "$file" 2>&1 >/dev/null) || {{
  echo "what it is to stand on cannot be read ($said): if that image is lost for good, delete it" >&2; exit 1; }}
sync -- "$file" .
"""
COMPARE = f"""{_WAY}
cd -- "$directory" || exit 1
said=$(qemu-img compare $cap --image-opts -- "$(way)" "driver=qcow2,file.driver=file,file.filename=$file")
case $? in
  0) echo "@ same" ;;
  1) echo "@ differs" $said ;;
  *) exit 1 ;;
esac
"""
# What the older image has not got yet is put into it; the one above stands upon it from then on. Done once more it
# changes nothing, until the newer one is deleted.
MERGE = (
    REFUSE_OLD
    + """
cd -- "$directory" || exit 1
qemu-img commit -q -d -f qcow2 -- "$newer" || exit 1
if [ -n "$above" ]; then qemu-img rebase -q -u -f qcow2 -F qcow2 -b "$older" -- "$above" || exit 1; fi
sync -- "$older" ${above:+"$above"}
"""
)
MISSING = """
for file in $files; do
  [ -s "$directory/$file" ] || echo "@ missing $file"
done
"""
# ``map`` of qemu-io tells of an image itself: what of it is "allocated", and what is "not allocated".
WRITTEN = """
for file in $files; do
  [ -s "$directory/$file" ] || continue
  map=$(qemu-io -r -f qcow2 -c map "$directory/$file") || exit 1
  echo "$map" | grep -q 'bytes  *allocated at' && echo "@ written $file"
done
:
"""
# Images that no restore point has: of rounds that broke off.
SWEEP = (
    REFUSE_OLD
    + """
for found in /run/mudanza-"$protection"-*.sock; do
  [ "$found" = "$socket" ] || rm -f -- "$found"
done
[ -d "$directory" ] || exit 0
cd -- "$directory" || exit 1
for found in *.qcow2 firmware.*.tgz; do
  [ -f "$found" ] || continue
  case " $wanted " in
    *" $found "*) ;;
    *) rm -f -- "$found" && echo "@ swept $found" ;;
  esac
done
"""
)
UPON = (
    REFUSE_OLD
    + """
umask 066
mkdir -p -- "$directory" && cd -- "$directory" && rm -f -- "$file" || exit 1
qemu-img create -q -f qcow2 -F qcow2 -b "$below" -- "$file" || exit 1
"""
)
REMOVE = (
    REFUSE_OLD
    + """
rm -f -- /run/mudanza-"$protection"-*.sock
rm -rf -- "$directory"
others=$(dirname "$directory")
[ ! -d "$others" ] || rmdir --ignore-fail-on-non-empty -- "$others"
"""
)
# The digest of each block of an image that is not all zeroes. What the map says to hold no data is not read. A part
# at a time is laid out in memory, for digests of many blocks at once are made of files.
DIGESTS = (
    """
umask 077
room=/dev/shm
[ -d "$room" ] && [ -w "$room" ] || room=/tmp
place=$(mktemp -d "$room/mudanza-digests.XXXXXX") || exit 1
trap 'rm -rf -- "$place"' EXIT
trap 'exit 1' HUP INT TERM
cd -- "$place" || exit 1
nothing=$(head -c "$block" /dev/zero | b2sum -l 128) || exit 1
nothing=${nothing%% *}
map=$(qemu-img map --output=json --image-opts "$image") || exit 1
parts=$(echo "$map" | awk -v part="$part" '"""
    + _FIELD
    + """
BEGIN { told = -1 }
/"data": true/ {
  first = int(field("start") / part); last = int((field("start") + field("length") - 1) / part)
  for (each = first > told ? first : told + 1; each <= last; each++) { print each; told = each }
}') || exit 1
for number in $parts; do
  at=$((number * part)); length=$((size - at))
  [ "$length" -le "$part" ] || length=$part
  qemu-img convert -O raw --image-opts "driver=raw,offset=$at,size=$length,$under" part || exit 1
  split -a 6 -d -b "$block" part block. && rm -f part || exit 1
  sums=$(b2sum -l 128 block.*) || exit 1
  rm -f block.*
  echo "@ part $at"
  echo "$sums" | awk -v nothing="$nothing" '$1 != nothing { sub("block.", "", $2); print "@ block", $2, $1 }'
done
"""
)
# What these images are like, each that is there: nobody needs to read them for it, unless digests are wanted.
LIKENESS = """
cd -- "$directory" || exit 1
for file in $files; do
  [ -f "$file" ] || continue
  stat -c "@ image %n %s %.9Y" -- "$file" || exit 1
  [ -z "$digests" ] || { echo "@ digest $file $(sha256sum <"$file")" || exit 1; }
done
"""
# What is there may be what a VM runs on, or its old copy did, after a failover.
UNUSED = """
place=$base number=0
while [ -e "$place" ]; do number=$((number + 1)); place=$base-$number; done
echo "@ number $number"
"""
# libvirt-guests starts at boot what ran when its host was shut down, whatever libvirt's autostart says.
GUESTS = """
for file in /etc/default/libvirt-guests /etc/sysconfig/libvirt-guests; do
  [ ! -r "$file" ] || . "$file"
done
enabled=no
if command -v systemctl >/dev/null && systemctl is-enabled -q libvirt-guests 2>/dev/null; then enabled=yes; fi
echo "@ guests $enabled ${ON_BOOT:-start}"
"""
# Lets a guest go on that was to stand still for a moment, if whoever wanted that does not say before that it is over.
# It outlives the connection. Only who was paused because somebody said so is let go on: never one that migrates.
GUARD = """
command -v virsh >/dev/null || { echo "there is no virsh (Debian: libvirt-clients)" >&2; exit 1; }
guardian=$(mktemp /run/mudanza-guardian.XXXXXX) || exit 1
export guardian limit uuid
setsid sh -c '
  sleep "$limit"
  [ -e "$guardian" ] || exit 0
  rm -f -- "$guardian"
  case $(virsh -c qemu:///system domstate --reason --domain "$uuid") in
    "paused (user)") virsh -c qemu:///system resume --domain "$uuid" ;;
  esac
' >/dev/null 2>&1 &
echo "@ guardian $guardian"
"""
# Thaws a guest's file systems unless it is called off before. An agent that is still at freezing them answers later.
# Of a VM that libvirt says is not active there any more nothing is frozen; a libvirt that does not answer says no such.
THAW_GUARD = """
command -v virsh >/dev/null || { echo "@ guardian"; exit 0; }
guardian=$(mktemp /run/mudanza-thawing.XXXXXX) || exit 1
export guardian limit again uuid
setsid sh -c '
  sleep "$limit"
  tries=0
  while [ -e "$guardian" ] && [ "$tries" -lt "$again" ]; do
    ! timeout 60 virsh -c qemu:///system domfsthaw --domain "$uuid" || break
    active=$(timeout 60 virsh -c qemu:///system list --uuid) && case $active in *"$uuid"*) ;; *) break ;; esac
    tries=$((tries + 1)); sleep 1
  done
  rm -f -- "$guardian"
' >/dev/null 2>&1 &
echo "@ guardian $guardian"
"""
CALL_OFF = """
rm -f -- "$guardian"
"""
# Room in memory, which goes with the script.
_ROOM = """
umask 077
room=/dev/shm
[ -d "$room" ] && [ -w "$room" ] || room=/tmp
place=$(mktemp -d "$room/mudanza-looking.XXXXXX") || exit 1
trap 'rm -rf -- "$place"' EXIT
trap 'exit 1' HUP INT TERM
"""
# The VM may write to it meanwhile: what was copied counts if it is still the same afterwards.
READ_FIRMWARE = (
    _ROOM
    + """
copy() {
  rm -rf -- "$place/new" && mkdir "$place/new" || return 1
  if [ -n "$variables" ] && [ -e "$variables" ]; then cp -a -- "$variables" "$place/new/variables" || return 1; fi
  if [ -n "$tpm" ] && [ -d "$tpm" ]; then
    cp -a -- "$tpm" "$place/new/tpm" && rm -f -- "$place/new/tpm/.lock" || return 1
  fi
}
digest() { (cd "$place/new" && find . -type f -print0 | sort -z | xargs -0r sha256sum | sha256sum); }
tries=0 before=
while :; do
  copy && now=$(digest) && [ "$now" = "$before" ] && break
  before=$now tries=$((tries + 1))
  [ "$tries" -lt 20 ] || { echo "the VM writes to its UEFI variables or TPM all the time" >&2; exit 1; }
done
now=${now%% *}
echo "@ digest $now"
[ "$now" != "$known" ] || exit 0
tar -C "$place/new" -czf "$place/archive" . || exit 1
[ "$(stat -c %s "$place/archive")" -le "$most" ] || { echo "they are larger than $most bytes" >&2; exit 1; }
base64 -w 65536 "$place/archive" | sed 's/^/@ part /'
"""
)
KEEP_FIRMWARE = """
umask 077
mkdir -p -- "$directory" && cd -- "$directory" || exit 1
printf %s "$archive" | base64 -d >"$file" && tar -tzf "$file" >/dev/null && sync -- "$file" . || exit 1
"""
# Each is made beside what may be there from earlier days, and then takes its place. QEMU and swtpm have to get through
# the directories.
PLACE_FIRMWARE = (
    _ROOM
    + """
cd -- "$directory" || exit 1
tar -C "$place" -xpzf "$file" --same-owner || exit 1
if [ -n "$variables" ] && [ -e "$place/variables" ]; then
  (umask 066; mkdir -p -- "$(dirname "$variables")") || exit 1
  cp -a -- "$place/variables" "$variables.new" && mv -f -- "$variables.new" "$variables" || exit 1
fi
if [ -n "$tpm" ] && [ -d "$place/tpm" ]; then
  (umask 066; mkdir -p -- "$(dirname "$tpm")") || exit 1
  rm -rf -- "$tpm.new" && cp -a -- "$place/tpm" "$tpm.new" && rm -rf -- "$tpm" && mv -- "$tpm.new" "$tpm" || exit 1
fi
"""
)
# What has left a host by the connection that this runs in.
SENT = """
set -- $SSH_CONNECTION
ss -tinH "src $3 and sport = :$4 and dst $1 and dport = :$2" 2>/dev/null |
  sed -n 's/.*bytes_sent:\\([0-9]*\\).*/@ sent \\1/p'
"""
_COMPRESSED = """
if [ -s all ]; then
  begun=$(date +%s%N)
  small=$(gzip -6 -c all | wc -c) || exit 1
  echo "@ sample $(stat -c %s all) $small $(($(date +%s%N) - begun))"
fi
"""
SAMPLE = f"""{_ROOM}
cd -- "$place" || exit 1
for at in $places; do
  qemu-img convert -O raw --image-opts "driver=raw,offset=$at,size=$piece,$under" part && cat part >>all || exit 1
done
{_COMPRESSED}"""
# What is all zeroes is not sent either.
FIRST_LOOK = f"""{_ROOM}
cd -- "$place" || exit 1
many=$(($(stat -L -c %b -- "$disk") * 512 / piece))
number=0
while [ "$number" -lt "$pieces" ]; do
  dd if="$disk" of=part bs="$piece" skip=$((number * many / pieces)) count=1 2>/dev/null || break
  [ -z "$(tr -d '\\0' <part | head -c 1 | od -An -tx1)" ] || cat part >>all
  number=$((number + 1))
done
{_COMPRESSED}
head -c "$noise" /dev/urandom | base64 -w 65536 | sed 's/^/@ noise /'
"""
FREE = """
free=$(df -Pk -- "$(dirname -- "$disk")" | awk 'END { print $4 }') || exit 1
echo "@ free $free"
"""
# Which files these are, one in each line, under whatever name.
INODES = """
printf '%s\\n' "$paths" | while IFS= read -r each; do
  echo "@ inode $(stat -L -c %i -- "$each" 2>/dev/null || echo unknown)"
done
"""
UNKNOWN = "unknown"
"""What such a file is called that is not there."""
# Which version of qcow2 these images are of, one in each line.
VERSIONS = """
printf '%s\\n' "$paths" | while IFS= read -r each; do
  echo "@ version $(head -c 8 -- "$each" 2>/dev/null | tail -c 1 | od -An -tu1)"
done
"""
# Of a VM that is off libvirt takes checkpoints away, and leaves what has told of changes in the image.
CLEAR_BITMAPS = """
[ -f "$disk" ] || exit 0
told=$(qemu-img info -f qcow2 -- "$disk") || exit 1
echo "$told" | sed -n "s/^ *name: \\($begin-[0-9]*\\)$/\\1/p" | while IFS= read -r bitmap; do
  qemu-img bitmap --remove -f qcow2 -- "$disk" "$bitmap" && echo "@ removed $bitmap" || exit 1
done
"""
CLEAR_SCRATCH = """
rm -f -- "$disk".mudanza-scratch-* "$sockets"-*.sock
"""
