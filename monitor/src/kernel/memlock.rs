//! Locked memory: before Linux 5.11 the kernel counts every map against `RLIMIT_MEMLOCK`, which is 64 KiB on
//! many hosts of that age; the flow table alone has megabytes.
//!
//! aya raises the limit without bounds when a map is refused, which takes `CAP_SYS_RESOURCE`. Without that,
//! a process may still raise its own limit as far as the administrator has set.

use anyhow::{Context as _, Result};
use aya::EbpfError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes maps, a second time with as much locked memory as is allowed if the first attempt was refused.
/// An error says what to allow, if that may be why.
pub(super) fn within_limit<T>(mut make: impl FnMut() -> Result<T, EbpfError>) -> Result<T> {
    match make() {
        Err(error) if is_refused(&error) => {}
        made => return Ok(made?),
    }
    if let Rlimit { current: Some(_), maximum } = getrlimit(Resource::Memlock) {
        let raised = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
        if let Err(error) = raised {
            tracing::debug!("the limit of locked memory stays: {error}");
        }
    }
    match make() {
        Err(error) if is_refused(&error) && getrlimit(Resource::Memlock).current.is_some() => Err(
            error,
        )
        .context(
            "this kernel may count maps as locked memory: allow more with `ulimit -l unlimited` \
                 (LimitMEMLOCK=infinity in a systemd unit), or keep CAP_SYS_RESOURCE",
        ),
        made => Ok(made?),
    }
}

/// The kernel says `EPERM`, as for want of rights.
fn is_refused(error: &EbpfError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::PermissionDenied;
        }
        cause = error.source();
    }
    false
}
