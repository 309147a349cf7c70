//! The kernel side's own rare diagnostics, carried by aya-log to our log.

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use crate::kernel::object::Object;
use crate::kernel::source::Source;
use crate::sys;

/// Forwards diagnostics until the runtime ends. Must be called inside one.
///
/// Not having them is no reason not to watch: what they tell is counted as well.
pub fn start(object: &mut Object) {
    let Source::Loaded(ebpf) = &mut object.source else { return };
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::debug!("no diagnostics from the kernel side: {error}");
            return;
        }
    };
    match sys::readable(logger) {
        Ok(logger) => {
            tokio::spawn(forward(logger));
        }
        Err(error) => tracing::debug!("no diagnostics from the kernel side: {error}"),
    }
}

async fn forward(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    while let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
