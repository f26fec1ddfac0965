//! Lists of traffic selectors. The words are `policy::selector`'s.

use super::document::Value;
use landbridge_proto::policy::selector;
use landbridge_proto::wire::{TrafficSelector, limits};

/// Reads a list of selectors.
pub(super) fn read(value: &Value<'_, '_>) -> Option<Vec<TrafficSelector>> {
    let items = value.strings()?;
    if items.is_empty() || items.len() > limits::SELECTORS {
        value.error(format!("1 to {} selectors are needed", limits::SELECTORS), None);
        return None;
    }
    let (mut list, mut complete) = (Vec::new(), true);
    for (text, item) in items {
        match selector::parse(text) {
            Ok(selector) => list.push(selector),
            Err(_) if text == "dynamic" => {
                item.error(
                    "\"dynamic\" is not supported: a gateway joins networks; write them",
                    None,
                );
                complete = false;
            }
            Err(problem) => {
                item.error(problem, None);
                complete = false;
            }
        }
    }
    complete.then_some(list)
}
