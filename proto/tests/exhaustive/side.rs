//! One side of the search: an endpoint, its SAD, and what must hold of it whatever comes in. States are kept, and so is what
//! each input made of each, so that no input is worked through twice.

use landbridge_proto::ike::{Command, Endpoint, Event};
use landbridge_proto::policy::sad::{ChildName, ChildSaEntry, ChildSaId, Path, SadReport, SadUpdate};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{OuterBody, decode_outer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A datagram that was sent once or more often.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Letter {
    pub to: usize,
    pub path: Path,
    pub octets: Vec<u8>,
}

/// What an endpoint is given.
#[derive(Clone, Debug)]
pub enum Input {
    Command(Command),
    Datagram(Path, Vec<u8>),
    Timeout,
    Report(SadReport),
}

/// A state of one side.
#[derive(Clone)]
pub struct Side {
    pub who: usize,
    pub endpoint: Endpoint,
    pub pairs: BTreeMap<ChildSaId, Arc<ChildSaEntry>>,
    /// The pair that sends, by child.
    pub active: BTreeMap<ChildName, ChildSaId>,
    /// Pairs that the peer was heard on.
    pub heard: Vec<ChildSaId>,
    /// The lines of the log, for whoever looks for the cause.
    pub lines: Vec<String>,
    /// IVs that left under each key, with the message.
    ivs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Keys that were ever installed.
    keys: Vec<Vec<u8>>,
}

impl Side {
    pub fn new(who: usize, endpoint: Endpoint) -> Self {
        Self {
            who,
            endpoint,
            pairs: BTreeMap::new(),
            active: BTreeMap::new(),
            heard: vec![],
            lines: vec![],
            ivs: BTreeMap::new(),
            keys: vec![],
        }
    }

    /// One input; what it sends.
    pub fn feed(&mut self, now: Instant, input: &Input) -> Result<Vec<Letter>, String> {
        let at = Now { instant: now, unix: 0 };
        match input {
            Input::Command(command) => {
                // One that comes too late (there is nothing to rekey any more) is refused.
                if let Err(error) = self.endpoint.handle_command(at, command.clone()) {
                    self.lines.push(format!("{command:?}: {error}"));
                }
            }
            Input::Datagram(path, octets) => self.endpoint.handle_datagram(at, *path, octets),
            Input::Timeout => self.endpoint.handle_timeout(at),
            Input::Report(report) => {
                if let SadReport::FirstInbound(id) = report {
                    self.heard.push(*id);
                }
                self.endpoint.handle_report(at, *report);
            }
        }
        self.drain()
    }

    /// What came of it.
    pub fn drain(&mut self) -> Result<Vec<Letter>, String> {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Sad(update) => self.apply(update)?,
                Event::Message { received, line, .. } => {
                    self.lines
                        .push(format!("{} {line}", if received { "<-" } else { "->" }));
                }
                Event::IkeDown { reason, .. } => self.lines.push(format!("IKE SA down: {reason}")),
                Event::ChildDown { reason, id, .. } => self.lines.push(format!("{id:?} down: {reason}")),
                Event::Failed(failure) => self.lines.push(failure.verdict),
                _ => {}
            }
        }
        let (mut letters, mut octets) = (vec![], vec![]);
        while let Some(transmit) = self.endpoint.poll_transmit(&mut octets) {
            self.check_iv(&octets)?;
            letters.push(Letter {
                to: 1 - self.who,
                path: Path::udp(transmit.path.remote, transmit.path.local),
                octets: octets.clone(),
            });
        }
        Ok(letters)
    }

    /// RFC 5282 §3.1: one (key, IV) pair, one message; RFC 7296 §2.1: a retransmission is the same octets again.
    fn check_iv(&mut self, datagram: &[u8]) -> Result<(), String> {
        let outer = decode_outer(datagram).map_err(|error| format!("we sent what we can't read: {error}"))?;
        let (OuterBody::Sk { protected, .. } | OuterBody::Skf { protected, .. }) = outer.body else {
            return Ok(());
        };
        let mut key = [outer.header.spi_i.0, outer.header.spi_r.0].concat();
        key.extend_from_slice(&protected[..8]);
        match self.ivs.insert(key, datagram.to_vec()) {
            Some(before) if before != datagram => Err("an IV was used for two messages".to_owned()),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, update: SadUpdate) -> Result<(), String> {
        match update {
            SadUpdate::InstallInbound(entry) => {
                for half in [&entry.inbound, &entry.outbound] {
                    let key = half.key.expose().to_vec();
                    if self.keys.contains(&key) {
                        return Err(format!("the key of SPI {:#010x} was in use before", half.spi));
                    }
                    self.keys.push(key);
                }
                if self.pairs.values().any(|pair| pair.inbound.spi == entry.inbound.spi) {
                    return Err(format!("SPI {:#010x} is used twice", entry.inbound.spi));
                }
                self.pairs.insert(entry.id, entry);
            }
            SadUpdate::ActivateOutbound { id, .. } => {
                let entry = self.pairs.get(&id).ok_or("activated before it was installed")?;
                self.active.insert(Arc::clone(&entry.child), id);
            }
            SadUpdate::DeactivateOutbound(id) => self.active.retain(|_, active| *active != id),
            SadUpdate::Remove(id) => {
                self.pairs.remove(&id).ok_or("removed twice")?;
                self.active.retain(|_, active| *active != id);
            }
            SadUpdate::Move { .. } => {}
        }
        Ok(())
    }

    pub fn timer(&self) -> Option<Instant> {
        self.endpoint.poll_timeout().map(|(at, _)| at)
    }

    /// Whether an input that said nothing new changed nothing: all but the counters of the endpoint is as before.
    fn unchanged(&self, before: &Self) -> bool {
        self.lines == before.lines
            && self.timer() == before.timer()
            && self.endpoint.load() == before.endpoint.load()
            && self.endpoint.status() == before.endpoint.status()
    }
}

/// All states of one side that were met, numbered, and the datagrams.
pub struct Sides {
    pub states: Vec<Side>,
    next: BTreeMap<(usize, Instant, InputKey), (usize, Vec<u32>)>,
    sent: Vec<Vec<u32>>,
}

/// An input by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InputKey {
    Operation(usize),
    Letter(u32),
    Timeout,
    Heard(ChildSaId),
}

/// The datagrams, numbered.
#[derive(Default)]
pub struct Letters {
    pub all: Vec<Letter>,
    numbers: std::collections::HashMap<Letter, u32>,
}

impl Letters {
    fn number(&mut self, letter: Letter) -> u32 {
        let next = self.all.len() as u32;
        *self.numbers.entry(letter.clone()).or_insert_with(|| {
            self.all.push(letter);
            next
        })
    }
}

impl Sides {
    pub fn new(first: Side) -> Self {
        Self {
            states: vec![first],
            next: BTreeMap::new(),
            sent: vec![vec![]],
        }
    }

    /// The state after an input, and the datagrams it sent.
    pub fn after(
        &mut self,
        letters: &mut Letters,
        state: usize,
        now: Instant,
        key: InputKey,
        input: impl FnOnce(&Letters) -> Input,
    ) -> Result<(usize, Vec<u32>), String> {
        if let Some(known) = self.next.get(&(state, now, key)) {
            return Ok(known.clone());
        }
        let before = &self.states[state];
        let mut side = before.clone();
        let input = input(letters);
        let sends = side
            .feed(now, &input)
            .map_err(|problem| format!("{problem}\n{:#?}", side.lines))?;
        let sends: Vec<u32> = sends.into_iter().map(|letter| letters.number(letter)).collect();
        let repeats = matches!(input, Input::Datagram(..)) && sends.iter().all(|send| self.sent[state].contains(send));
        let after = if repeats && side.unchanged(before) {
            state
        } else {
            let mut sent = self.sent[state].clone();
            sent.extend(&sends);
            self.sent.push(sent);
            self.states.push(side);
            self.states.len() - 1
        };
        self.next.insert((state, now, key), (after, sends.clone()));
        Ok((after, sends))
    }
}
