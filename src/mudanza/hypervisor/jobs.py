"""Which libvirt job is at work on a domain."""

from __future__ import annotations

from typing import Any

import libvirt

from mudanza.hypervisor.states import operation_name


def job_name(domain: Any) -> str | None:
    """Return the job running on a domain, whoever started it; None: there is none, or the domain is off.

    Waits for QEMU's monitor while a job runs, so call it with a bound.
    """
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            # The one job libvirt keeps no figures of: they are at the source.
            return "migration in"
        if code in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT):
            # Not running, or a driver without jobs.
            return None
        raise
    if int(stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE)) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return operation_name(int(stats.get("operation", 0)))
