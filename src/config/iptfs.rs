//! `iptfs = { mode = "aggregate" }` of a child: IP-TFS (RFC 9347).

use super::connection::flag;
use super::document::{Table, Value, nearest};
use super::gateway::set;
use super::units::{bit_rate, duration, integer, some_duration};
use landbridge_proto::esp::aggfrag::Decoder;
use landbridge_proto::policy::aggfrag::{Iptfs, SendMode};
use landbridge_proto::policy::sad::Mode;
use std::time::Duration;

/// RFC 9347 §2.2.3: "a value of 3 has been suggested as a default when no more informed choice exists."
const REORDER_WINDOW: u16 = 3;
/// What overtaking takes on most paths, and little enough for those who wait behind a loss.
const REORDER_TIME: Duration = Duration::from_millis(10);
/// What a packet may wait for company: nobody notices, and nothing waits while there is enough to send.
const LONGEST_DELAY: Duration = Duration::from_millis(100);
/// Bits a second: less is one packet in many seconds, more is no rate that a core sends at.
const RATES: std::ops::RangeInclusive<u64> = 8_000..=100_000_000_000;

/// What the congestion-controlled mode does not go below, if nothing else is said: some packets a second, in which the information
/// travels that it goes by.
const LEAST_RATE: u64 = 64_000;

const MODES: [&str; 3] = ["aggregate", "constant", "congestion"];

/// Reads it; what is wrong is reported.
pub(super) fn read(child: &Table<'_, '_>, mode: Option<Mode>) -> Option<Iptfs> {
    let value = child.get("iptfs")?;
    if mode == Some(Mode::Transport) {
        // RFC 9347 §5.1: "the use of the AGGFRAG_PAYLOAD payload is currently only defined for non-transport-mode tunnels".
        value.error("IP-TFS carries whole inner packets: it takes mode = \"tunnel\"", None);
        return None;
    }
    let table = value.table()?;
    let mode = send_mode(&table);
    let size = table.get("size").and_then(|value| integer(&value, 256..=65_535));
    let (mut reorder_window, mut reorder_time) = (REORDER_WINDOW, REORDER_TIME);
    if let Some(value) = table.get("reorder_window") {
        set(&mut reorder_window, integer(&value, 0..=Decoder::WINDOW_MOST as u64));
    }
    if let Some(value) = table.get("reorder_time") {
        set(&mut reorder_time, some_duration(&value));
    }
    let fragments = flag(&table, "fragments", true);
    let required = flag(&table, "required", false);
    table.finish();
    Some(Iptfs {
        mode: mode?,
        size,
        reorder_window,
        reorder_time,
        fragments,
        required,
    })
}

fn send_mode(table: &Table<'_, '_>) -> Option<SendMode> {
    let (given, rate, wait) = (table.get("mode"), table.get("rate"), table.get("delay"));
    let least = table.get("least_rate");
    let Some(given) = given else {
        let remedy = "write mode = \"aggregate\", or \"constant\" or \"congestion\" with a rate".to_owned();
        let problem = format!("[{}] has no mode", table.path());
        table.findings().error(table.spot(), problem, Some(remedy));
        return None;
    };
    let word = given.string()?;
    let only = |value: &Option<Value<'_, '_>>, name: &str, modes: &str| {
        if let Some(value) = value {
            value.error(format!("{name} is for mode = {modes}"), None);
        }
    };
    // RFC 9347 §4.1: "For the congestion-controlled mode, the bandwidth can be configured or the congestion control algorithm discovers
    // and uses the maximum bandwidth available." Here it is always: a tunnel that is never silent would take all that there is.
    let needed = |example: &str| {
        if rate.is_none() {
            let problem = format!("[{}] has no rate", table.path());
            let remedy = format!("write for example rate = \"10Mbit/s\": {example}");
            table.findings().error(table.spot(), problem, Some(remedy));
        }
        bit_rate(rate.as_ref()?, RATES)
    };
    match word {
        "aggregate" => {
            only(&rate, "a rate", "\"constant\" or \"congestion\"");
            only(&least, "a least rate", "\"congestion\"");
            let mut delay = Duration::ZERO;
            if let Some(value) = &wait {
                set(&mut delay, duration(value));
                if delay > LONGEST_DELAY {
                    value.error("it is at most \"100ms\": every packet may wait that long", None);
                }
            }
            Some(SendMode::Aggregate { delay })
        }
        "constant" => {
            only(&wait, "a delay", "\"aggregate\"");
            only(&least, "a least rate", "\"congestion\"");
            let rate = needed("so much is sent all the time")?;
            Some(SendMode::Constant { rate })
        }
        "congestion" => {
            only(&wait, "a delay", "\"aggregate\"");
            let most = needed("so much is sent at most");
            let mut lowest = most.map_or(LEAST_RATE, |most| most.min(LEAST_RATE));
            if let Some(value) = &least {
                set(&mut lowest, bit_rate(value, RATES));
                if most.is_some_and(|most| lowest > most) {
                    value.error("it is above the rate", None);
                }
            }
            Some(SendMode::Congestion {
                least: lowest,
                most: most?,
            })
        }
        other => {
            let remedy = nearest(other, MODES).map(|word| format!("did you mean {word:?}?"));
            given.error(
                format!("{other:?} is not \"aggregate\", \"constant\" or \"congestion\""),
                remedy,
            );
            None
        }
    }
}
