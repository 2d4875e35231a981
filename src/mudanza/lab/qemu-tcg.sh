#!/bin/sh
# Stands in front of QEMU on a lab host and takes 8 KiB off the memory of a software-emulated guest.
#
# QEMU before 9.0 loses writes to guest memory while it pre-copies under TCG: clearing the dirty bitmap in whole words
# leaves the emulated CPU's TLB believing that its pages are dirty already. It takes that path only where memory is a
# multiple of 64 pages. KVM does not have the fault, and guests under it are left alone.
real=/srv/qemu/bin/qemu-system-x86_64
pages=8192

case " $* " in
*" -accel tcg "*) ;;
*) exec "$real" "$@" ;;
esac

option=
for argument; do
    shift
    case "$option=$argument" in
    -m=*[!0-9]* | -m=) ;;
    -m=*) argument="size=$((argument * 1024 - pages / 1024))k" ;;
    -object=*'"qom-type":"memory-backend-'*'"id":"pc.ram"'*'"size":'*)
        before=${argument%%'"size":'*}'"size":'
        rest=${argument#"$before"}
        size=${rest%%[!0-9]*}
        argument=$before$((size - pages))${rest#"$size"}
        ;;
    esac
    option=$argument
    set -- "$@" "$argument"
done
exec "$real" "$@"
