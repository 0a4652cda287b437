//! What the machine must allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files to what is allowed, and says what could go wrong on this host.
pub(super) fn prepare(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Best effort: the warning below tells what remains.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Store connections, the WAL and the rest need some beside the clients.
    if files < connections_max as u64 + 256 {
        tracing::warn!(
            "this process may open {files} files, too few for connections-max = {connections_max}: raise the limit \
             (ulimit -n, LimitNOFILE=) or lower the option"
        );
    }
    if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2") {
        tracing::warn!(
            "vm.overcommit_memory is 2: a hostile frame that makes a decoder ask for much memory can end this process, \
             where modes 0 and 1 make it an ordinary decode error. Set it to 0, or let only trusted clients connect"
        );
    }
}
