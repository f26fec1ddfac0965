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

const MODES: [&str; 2] = ["aggregate", "constant"];

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
    let Some(given) = given else {
        let remedy = "write mode = \"aggregate\", or \"constant\" with a rate".to_owned();
        let problem = format!("[{}] has no mode", table.path());
        table.findings().error(table.spot(), problem, Some(remedy));
        return None;
    };
    let word = given.string()?;
    let only = |value: &Option<Value<'_, '_>>, name: &str, mode: &str| {
        if let Some(value) = value {
            value.error(format!("{name} is for mode = {mode:?}"), None);
        }
    };
    match word {
        "aggregate" => {
            only(&rate, "a rate", "constant");
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
            only(&wait, "a delay", "aggregate");
            let Some(rate) = rate else {
                let problem = format!("[{}] has no rate", table.path());
                let remedy = "write for example rate = \"10Mbit/s\": so much is sent all the time".to_owned();
                table.findings().error(table.spot(), problem, Some(remedy));
                return None;
            };
            Some(SendMode::Constant {
                rate: bit_rate(&rate, RATES)?,
            })
        }
        other => {
            let remedy = nearest(other, MODES).map(|word| format!("did you mean {word:?}?"));
            given.error(format!("{other:?} is not \"aggregate\" or \"constant\""), remedy);
            None
        }
    }
}
