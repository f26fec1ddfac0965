//! The search: every order of what may happen next, depth first, each situation once.

use crate::side::{Input, InputKey, Letters, Side, Sides};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::sad::{ChildSaId, SadReport};
use landbridge_proto::time::Instant;
use std::collections::HashMap;

/// How many faults one run may meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    pub drops: u8,
    pub duplicates: u8,
    /// Timers that fire while datagrams are under way: these are late by more than a retransmission.
    pub timers: u8,
    /// First packets that come in on a new pair before the messages that would tell the same.
    pub packets: u8,
    /// All of these together.
    pub total: u8,
}

/// A situation: both sides, what is under way, and what may still go wrong.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Situation {
    sides: [usize; 2],
    now: Instant,
    /// Sorted.
    wire: Vec<u32>,
    /// Which operations have begun.
    begun: Vec<bool>,
    left: Budget,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Begin(usize),
    Deliver(u32),
    Drop(u32),
    Duplicate(u32),
    Timer(usize),
    Packet(usize, ChildSaId),
}

/// What a search found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Situations.
    pub situations: u64,
    /// Quiet ones among them, each another end.
    pub leaves: u64,
    /// Orders of events that lead to them.
    pub schedules: f64,
    /// States of both endpoints.
    pub states: u64,
}

/// What must hold in every situation, and at every end.
pub struct Laws<'a> {
    pub always: &'a dyn Fn([&Side; 2]) -> Result<(), String>,
    pub at_the_end: &'a dyn Fn([&Side; 2]) -> Result<(), String>,
}

pub struct Search<'a> {
    operations: Vec<(usize, Command)>,
    sides: [Sides; 2],
    letters: Letters,
    laws: Laws<'a>,
    known: HashMap<Situation, f64>,
    path: Vec<Step>,
    found: Found,
}

/// Steps from the beginning to quiet; more means that the sides chatter.
const DEEPEST: usize = 300;

impl<'a> Search<'a> {
    pub fn new(ends: [Side; 2], operations: Vec<(usize, Command)>, laws: Laws<'a>) -> Self {
        Self {
            operations,
            sides: ends.map(Sides::new),
            letters: Letters::default(),
            laws,
            known: HashMap::new(),
            path: vec![],
            found: Found::default(),
        }
    }

    /// Searches through everything; the error tells the way to it.
    pub fn run(mut self, now: Instant, budget: Budget) -> Result<Found, String> {
        let begin = Situation {
            sides: [0, 0],
            now,
            wire: vec![],
            begun: vec![false; self.operations.len()],
            left: budget,
        };
        match self.explore(begin) {
            Ok(schedules) => {
                self.found.schedules = schedules;
                self.found.situations = self.known.len() as u64;
                self.found.states = self.sides.iter().map(|sides| sides.states.len() as u64).sum();
                Ok(self.found)
            }
            Err(problem) => Err(format!("{problem}\nafter {:?}", self.path)),
        }
    }

    fn ends(&self, of: &Situation) -> [&Side; 2] {
        [0, 1].map(|who| &self.sides[who].states[of.sides[who]])
    }

    fn explore(&mut self, situation: Situation) -> Result<f64, String> {
        if let Some(schedules) = self.known.get(&situation) {
            return Ok(*schedules);
        }
        if self.path.len() > DEEPEST {
            return Err(self.tell(&situation, "the sides chatter"));
        }
        (self.laws.always)(self.ends(&situation)).map_err(|problem| self.tell(&situation, &problem))?;
        let steps = self.steps(&situation);
        let mut schedules = 0.0;
        if steps.is_empty() {
            (self.laws.at_the_end)(self.ends(&situation)).map_err(|problem| self.tell(&situation, &problem))?;
            self.found.leaves += 1;
            schedules = 1.0;
        }
        for step in steps {
            self.path.push(step);
            let next = self.take(&situation, step)?;
            schedules += self.explore(next)?;
            self.path.pop();
        }
        self.known.insert(situation, schedules);
        Ok(schedules)
    }

    fn tell(&self, situation: &Situation, problem: &str) -> String {
        let ends = self.ends(situation);
        let told = ends.map(|side| {
            let stages: Vec<_> = side
                .endpoint
                .status()
                .iter()
                .map(|sa| (sa.stage, sa.children.len()))
                .collect();
            format!(
                "side {}: {stages:?} {:?}\n{:#?}",
                side.who,
                side.endpoint.load(),
                side.lines
            )
        });
        format!("{problem}\n{}\n{}", told[0], told[1])
    }

    /// What may happen next.
    fn steps(&self, at: &Situation) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..at.begun.len()).filter(|i| !at.begun[*i]).map(Step::Begin).collect();
        let mut letters = at.wire.clone();
        letters.dedup();
        for letter in &letters {
            steps.push(Step::Deliver(*letter));
            if at.left.total > 0 && at.left.drops > 0 {
                steps.push(Step::Drop(*letter));
            }
            if at.left.total > 0 && at.left.duplicates > 0 {
                steps.push(Step::Duplicate(*letter));
            }
        }
        let ends = self.ends(at);
        // Time passes when nothing else can happen, or, a few times, when something is late.
        if steps.is_empty() || (at.left.total > 0 && at.left.timers > 0 && !letters.is_empty()) {
            let first = (0..2)
                .filter_map(|who| ends[who].timer().map(|timer| (timer, who)))
                .min();
            steps.extend(first.map(|(_, who)| Step::Timer(who)));
        }
        if at.left.total > 0 && at.left.packets > 0 {
            for who in 0..2 {
                let (us, them) = (ends[who], ends[1 - who]);
                let sending = them
                    .active
                    .values()
                    .filter_map(|id| them.pairs.get(id))
                    .map(|pair| pair.outbound.spi);
                let spis: Vec<u32> = sending.collect();
                let new = us.pairs.values().filter(|pair| spis.contains(&pair.inbound.spi));
                let new = new.filter(|pair| !us.heard.contains(&pair.id));
                steps.extend(new.map(|pair| Step::Packet(who, pair.id)));
            }
        }
        steps
    }

    /// The situation after a step.
    fn take(&mut self, at: &Situation, step: Step) -> Result<Situation, String> {
        let mut next = at.clone();
        let remove = |wire: &mut Vec<u32>, letter: u32| {
            if let Some(index) = wire.iter().position(|other| *other == letter) {
                wire.remove(index);
            }
        };
        let (who, key) = match step {
            Step::Begin(index) => {
                next.begun[index] = true;
                (self.operations[index].0, InputKey::Operation(index))
            }
            Step::Deliver(letter) => {
                remove(&mut next.wire, letter);
                (self.letters.all[letter as usize].to, InputKey::Letter(letter))
            }
            Step::Duplicate(letter) => {
                next.left.duplicates -= 1;
                next.left.total -= 1;
                (self.letters.all[letter as usize].to, InputKey::Letter(letter))
            }
            Step::Drop(letter) => {
                remove(&mut next.wire, letter);
                next.left.drops -= 1;
                next.left.total -= 1;
                return Ok(next);
            }
            Step::Timer(who) => {
                if !at.wire.is_empty() {
                    next.left.timers -= 1;
                    next.left.total -= 1;
                }
                let due = self.sides[who].states[at.sides[who]].timer();
                next.now = next.now.max(due.unwrap_or(next.now));
                (who, InputKey::Timeout)
            }
            Step::Packet(who, id) => {
                next.left.packets -= 1;
                next.left.total -= 1;
                (who, InputKey::Heard(id))
            }
        };
        let operations = &self.operations;
        let input = |letters: &Letters| match key {
            InputKey::Operation(index) => Input::Command(operations[index].1.clone()),
            InputKey::Letter(number) => {
                let letter = &letters.all[number as usize];
                Input::Datagram(letter.path, letter.octets.clone())
            }
            InputKey::Timeout => Input::Timeout,
            InputKey::Heard(id) => Input::Report(SadReport::FirstInbound(id)),
        };
        let (state, sends) = self.sides[who].after(&mut self.letters, at.sides[who], next.now, key, input)?;
        next.sides[who] = state;
        next.wire.extend(sends);
        next.wire.sort_unstable();
        Ok(next)
    }
}
