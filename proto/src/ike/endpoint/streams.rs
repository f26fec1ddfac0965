//! TCP connections and the IKE SAs that use them (RFC 9329).

use super::*;
use crate::ike::stream::Wish;

impl Endpoint {
    /// The answer to [`Event::NeedStream`]: a TCP connection, by its addresses, or why there is none. `spi` is the event's. One
    /// that nobody wants any more is not in [`Self::streams`].
    pub fn handle_stream(&mut self, now: Now, spi: IkeSpi, stream: Result<Path, String>) {
        self.shared.now = now;
        let before = self.sas.get(&spi).map(|sa| sa.path);
        self.with_sa(spi, |sa, shared| {
            sa.handle_stream(shared, stream);
            sa.work(shared);
        });
        let after = self.sas.get(&spi).map(|sa| sa.path);
        let (Some(before), Some(after)) = (before.filter(Path::is_tcp), after.filter(Path::is_tcp)) else {
            return;
        };
        if before == after {
            return;
        }
        // What it was rekeyed from goes with it, until it is deleted.
        let shares = |sa: &&IkeSa| sa.path == before && sa.stream.lost && !matches!(sa.stage, Stage::Closed { .. });
        let others: Vec<IkeSpi> = self.sas.values().filter(shares).map(IkeSa::own_spi).collect();
        for other in others {
            self.with_sa(other, |sa, shared| sa.resume(shared, after));
        }
    }

    /// A TCP connection was closed, by whomever.
    pub fn handle_stream_closed(&mut self, now: Now, stream: Path) {
        self.shared.now = now;
        let uses = |sa: &&IkeSa| sa.path == stream && !matches!(sa.stage, Stage::Closed { .. });
        let all: Vec<IkeSpi> = self.sas.values().filter(uses).map(IkeSa::own_spi).collect();
        for spi in all {
            self.with_sa(spi, |sa, shared| {
                sa.stream_closed(shared);
                sa.work(shared);
            });
        }
    }

    /// The TCP connections that IKE SAs use, and whether one of them is authenticated.
    #[must_use]
    pub fn streams(&self) -> BTreeMap<Path, bool> {
        let mut streams = BTreeMap::new();
        for sa in self.sas.values().filter(|sa| sa.path.is_tcp()) {
            if !matches!(sa.stage, Stage::Closed { .. }) {
                *streams.entry(sa.path).or_default() |= sa.established.is_some();
            }
        }
        streams
    }

    /// Begins an SA: by TCP where its path says so, when the TCP connection is there. A ticket is presented by UDP only: by TCP a
    /// round trip more counts little, and it stays for later.
    pub(super) fn begin(&mut self, sa: IkeSa, kept: Option<Box<Kept>>) {
        let spi = sa.own_spi();
        let mut kept = kept;
        if sa.path.is_tcp()
            && let (Some(name), Some(kept)) = (sa.name(), kept.take())
        {
            self.kept.insert(name, kept);
        }
        self.sas.insert(spi, sa);
        self.with_sa(spi, |sa, shared| match sa.connection.clone() {
            _ if sa.path.is_tcp() => sa.want_stream(shared, Wish::Begin),
            Some(connection) => sa.begin(shared, &connection, kept),
            None => {}
        });
    }
}
