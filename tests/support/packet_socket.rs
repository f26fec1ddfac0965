//! A packet socket on a TUN, with the virtio-net header (PACKET_VNET_HDR): what is put in stands before the device as if the
//! kernel had sent it, super-packets included; what comes out is as the device handed it to the kernel.

use super::World;
use super::transfer::inside;
use landbridge_proto::ip::vnet::VnetHeader;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket that sees both directions of a device.
pub struct PacketSocket {
    socket: OwnedFd,
    device: i32,
}

/// One packet, as it stands before or behind a device.
pub struct Seen {
    /// Into the device (from this machine's kernel), or out of it.
    pub outgoing: bool,
    pub vnet: VnetHeader,
    pub packet: Vec<u8>,
}

const ETH_P_ALL: u16 = 3;
const PACKET_VNET_HDR: i32 = 15;

impl PacketSocket {
    pub fn open(world: &World, ns: &str, device: &str) -> Self {
        let index = world.must(ns, &["cat", &format!("/sys/class/net/{device}/ifindex")]);
        let device: i32 = index.trim().parse().unwrap();
        inside(world, ns, move || {
            // SAFETY: no pointers; the result is checked.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
            // SAFETY: a fresh descriptor that nothing else owns.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            let socket = Self { socket, device };
            socket.option(libc::SOL_PACKET, PACKET_VNET_HDR, 1);
            socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 128 << 20);
            let address = socket.address(ETH_P_ALL);
            // SAFETY: `address` is a valid sockaddr_ll of the size given.
            let bound = unsafe {
                libc::bind(
                    fd,
                    (&raw const address).cast(),
                    mem::size_of_val(&address) as libc::socklen_t,
                )
            };
            assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
            socket
        })
        .join()
        .unwrap()
    }

    fn option(&self, level: i32, option: i32, value: i32) {
        // SAFETY: `value` is an int that lives through the call, and its size is given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                mem::size_of::<i32>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        // SAFETY: all-zero octets are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = self.device;
        address
    }

    /// Puts a packet before the device.
    pub fn send(&self, vnet: &VnetHeader, packet: &[u8]) -> io::Result<()> {
        let octets = [&vnet.to_octets()[..], packet].concat();
        let address = self.address(if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 });
        // SAFETY: the buffer and the address are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                octets.as_ptr().cast(),
                octets.len(),
                0,
                (&raw const address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Everything that was seen since.
    pub fn take(&self) -> Vec<Seen> {
        let (mut list, mut buffer) = (Vec::new(), vec![0; VnetHeader::LEN + (1 << 16)]);
        loop {
            // SAFETY: all-zero octets are a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
            let mut length = mem::size_of_val(&address) as libc::socklen_t;
            // SAFETY: the buffer and the address are valid for writes of the lengths given.
            let len = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut address).cast(),
                    &raw mut length,
                )
            };
            let Ok(len) = usize::try_from(len) else { return list };
            let (header, packet) = buffer[..len].split_first_chunk().unwrap();
            list.push(Seen {
                outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
                vnet: VnetHeader::from_octets(header),
                packet: packet.to_vec(),
            });
        }
    }

    /// Packets that the socket had no room for.
    pub fn lost(&self) -> u32 {
        let mut counts = [0_u32; 2];
        let mut length = mem::size_of_val(&counts) as libc::socklen_t;
        // SAFETY: tpacket_stats is two words; the buffer is valid for writes of the length given.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        counts[1]
    }
}

/// What an older kernel refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// Nothing.
    ThisOne,
    /// UDP super-packets on the TUN (before 6.2).
    WithoutUso,
    /// UDP_GRO and UDP_SEGMENT too (before 4.18), and any offload on the TUN.
    WithoutOffloads,
}

/// Makes the calling thread, and those that it starts, see such a kernel.
pub fn pretend(kernel: Kernel) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    let load = |offset: u32| libc::sock_filter {
        code: (BPF_LD | BPF_W | BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    };
    let jump = |test: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (BPF_JMP | test | BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let answer = |k: u32| libc::sock_filter {
        code: (BPF_RET | BPF_K) as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let (udp_options, flags) = match kernel {
        Kernel::ThisOne => return,
        // No system call has this number: the test never holds.
        Kernel::WithoutUso => (u32::MAX, 0x60),
        Kernel::WithoutOffloads => (libc::SYS_setsockopt as u32, 0x7f),
    };
    // struct seccomp_data: nr at 0, the lower halves of the arguments at 16, 24, 32.
    let mut program = [
        load(0),
        jump(BPF_JEQ, udp_options, 0, 5),
        load(24),
        jump(BPF_JEQ, libc::SOL_UDP as u32, 0, 9),
        load(32),
        jump(BPF_JEQ, libc::UDP_GRO as u32, 6, 0),
        jump(BPF_JEQ, libc::UDP_SEGMENT as u32, 5, 6),
        jump(BPF_JEQ, libc::SYS_ioctl as u32, 0, 5),
        load(24),
        jump(BPF_JEQ, TUNSETOFFLOAD, 0, 3),
        load(32),
        jump(BPF_JSET, flags, 2, 1),
        answer(ERRNO | libc::ENOPROTOOPT as u32),
        answer(ALLOW),
        answer(ERRNO | libc::EINVAL as u32),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the first call has no pointers; `filter` names `len` instructions that the kernel checks and copies.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    };
    assert_eq!(result, 0, "seccomp: {}", io::Error::last_os_error());
}
