//! What this process may do (capabilities(7)).

use std::io;

/// CAP_NET_ADMIN of linux/capability.h: interfaces, routes, larger socket buffers.
pub const NET_ADMIN: u32 = 12;

/// CAP_NET_RAW: ESP without UDP.
pub const NET_RAW: u32 = 13;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two words.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether the calling thread has a capability in its effective set.
///
/// # Errors
/// As the system says.
pub fn has(capability: u32) -> io::Result<bool> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: `header` names version 3, which fills in two data structures; both are valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let word = data.get(capability as usize / 32).copied().unwrap_or_default();
    Ok(word.effective >> (capability % 32) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let mask = u64::from_str_radix(line.trim(), 16).unwrap();
        for capability in 0..40 {
            assert_eq!(has(capability).unwrap(), mask >> capability & 1 == 1, "{capability}");
        }
    }
}
