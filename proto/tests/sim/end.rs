//! What must hold at the end.

use crate::world::World;
use std::collections::BTreeSet;

impl World {
    /// How many pairs there are to be at least and at most: who has made the first makes the others (RFC 9611 §3), and where
    /// they end with those of either end it is one more or less.
    fn wanted(&self) -> std::ops::RangeInclusive<usize> {
        let [a, b] = self.plan.pairs.map(usize::from);
        match (a, b) {
            (1, _) | (_, 1) => 1..=1,
            _ => a.min(b)..=a.max(b),
        }
    }

    /// Both sides have one IKE SA with the pairs that are wanted, they are the same, and nothing is left over.
    pub fn settled(&self) -> Result<(), String> {
        let wanted = self.wanted();
        for (who, node) in self.nodes.iter().enumerate() {
            let status = node.endpoint.status();
            let [sa] = status.as_slice() else {
                return Err(format!("node {who} has {} IKE SAs", status.len()));
            };
            if sa.stage != "established" || !wanted.contains(&sa.children.len()) {
                return Err(format!("node {who}: {} with {} Child SAs", sa.stage, sa.children.len()));
            }
            if node.sad.len() != sa.children.len() {
                return Err(format!("node {who}: {} pairs in the SAD", node.sad.len()));
            }
            if node.endpoint.spis_in_use() != sa.children.len() {
                return Err(format!(
                    "node {who}: {} SPIs are not freed",
                    node.endpoint.spis_in_use()
                ));
            }
            // A pair in each place, as far as they go; and each place sends.
            let places: BTreeSet<u16> = node.sad.values().map(|pair| pair.entry.resource).collect();
            let expected = sa.children.len().min(self.plan.pairs[who].into());
            if places.len() != expected || !places.iter().eq(node.active.keys()) {
                return Err(format!("node {who} has {places:?} and sends by {:?}", node.active));
            }
        }
        let spis = |who: usize, inbound: bool| -> BTreeSet<(u32, u32)> {
            let pairs = self.nodes[who].sad.values();
            let spis = pairs.map(|pair| (pair.entry.inbound.spi, pair.entry.outbound.spi));
            spis.map(|(own, other)| if inbound { (own, other) } else { (other, own) })
                .collect()
        };
        if spis(0, true) != spis(1, false) {
            return Err("the two ends don't belong together".to_owned());
        }
        Ok(())
    }
}
