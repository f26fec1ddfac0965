//! Waiting: epoll, and an eventfd to be woken by.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A set of descriptors to wait for, each with a token. Level-triggered: what was not read to its end is ready again.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

/// Tokens of what is ready.
pub struct Ready {
    events: Vec<libc::epoll_event>,
    count: usize,
}

impl Ready {
    /// Room for `most` descriptors at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; most.max(1)],
            count: 0,
        }
    }

    /// How many are ready.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// None is?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The token of one of them.
    #[must_use]
    pub fn token(&self, index: usize) -> Option<u64> {
        self.events.get(..self.count)?.get(index).map(|event| event.u64)
    }
}

impl Poll {
    /// An empty set.
    ///
    /// # Errors
    /// As the system says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll })
    }

    /// Waits for `source` to be readable, too.
    ///
    /// # Errors
    /// As the system says.
    pub fn add(&self, source: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        self.control(libc::EPOLL_CTL_ADD, source, &raw mut event)
    }

    /// Waits for `source` to take data again after it had refused some, and tells at once if it takes any: once each time
    /// (edge-triggered).
    ///
    /// # Errors
    /// As the system says.
    pub fn add_writable(&self, source: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLOUT | libc::EPOLLET) as u32,
            u64: token,
        };
        self.control(libc::EPOLL_CTL_ADD, source, &raw mut event)
    }

    /// Forgets `source`.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, std::ptr::null_mut())
    }

    fn control(&self, what: libc::c_int, source: &impl AsFd, event: *mut libc::epoll_event) -> io::Result<()> {
        let (epoll, fd) = (self.epoll.as_raw_fd(), source.as_fd().as_raw_fd());
        // SAFETY: `event` is null (EPOLL_CTL_DEL) or valid for the call; both descriptors are open.
        if unsafe { libc::epoll_ctl(epoll, what, fd, event) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits. An interruption by a signal counts as nothing ready.
    ///
    /// # Errors
    /// As the system says.
    pub fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map_or(-1, milliseconds);
        let most = i32::try_from(ready.events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` is valid for writes of `most` events.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), ready.events.as_mut_ptr(), most, timeout) };
        ready.count = usize::try_from(count).unwrap_or(0);
        if count < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Wakes a thread that waits in a [`Poll`].
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
}

impl Waker {
    /// A new one, not yet rung.
    ///
    /// # Errors
    /// As the system says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { event })
    }

    /// Rings. It can't fail but by being rung already.
    pub fn ring(&self) {
        let one: u64 = 1;
        // SAFETY: eight octets are read from `one`.
        unsafe { libc::write(self.event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Takes the ring back.
    pub fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: eight octets are written to `count`.
        unsafe { libc::read(self.event.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Wakes a thread that waits in a [`Poll`] at a time: epoll itself counts in milliseconds.
#[derive(Debug)]
pub struct Timer {
    timer: OwnedFd,
}

impl Timer {
    /// A new one that does not run.
    ///
    /// # Errors
    /// As the system says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let timer = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { timer })
    }

    /// Rings once after this, or no more; takes the last ring back.
    pub fn set(&self, after: Option<Duration>) {
        // Zero would stop it.
        let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: after.subsec_nanos() as _,
            },
        };
        // SAFETY: `value` is read during the call; no old value is asked for.
        unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const value, std::ptr::null_mut()) };
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Waits until `sink` takes data, at most `timeout`; false if it did not come to that.
pub fn wait_writable(sink: &impl AsFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: sink.as_fd().as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one pollfd, valid for the call.
    let count = unsafe { libc::poll(&raw mut poll, 1, milliseconds(timeout)) };
    count > 0 && poll.revents & libc::POLLOUT != 0
}

fn milliseconds(timeout: Duration) -> libc::c_int {
    libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_seen_until_it_is_taken_back() {
        let (poll, waker, mut ready) = (Poll::new().unwrap(), Waker::new().unwrap(), Ready::new(4));
        poll.add(&waker, 7).unwrap();
        poll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        waker.ring();
        waker.ring();
        for _ in 0..2 {
            poll.wait(&mut ready, None).unwrap();
            assert_eq!((ready.len(), ready.token(0), ready.token(1)), (1, Some(7), None));
        }
        waker.clear();
        poll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        // A timer rings when its time has come, and until it is set anew.
        let timer = Timer::new().unwrap();
        poll.add(&timer, 9).unwrap();
        timer.set(Some(Duration::from_micros(200)));
        for _ in 0..2 {
            poll.wait(&mut ready, Some(Duration::from_secs(5))).unwrap();
            assert_eq!((ready.len(), ready.token(0)), (1, Some(9)));
        }
        timer.set(None);
        poll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        waker.ring();
        poll.remove(&waker).unwrap();
        poll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
    }
}
