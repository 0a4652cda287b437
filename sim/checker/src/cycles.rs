//! Calls that depend on each other in a circle.
//!
//! | step | from a call to one that |
//! |---|---|
//! | ww | sent the next record of some log |
//! | wr | polled a record that it had sent |
//! | process | its process began after it was over |
//! | realtime | anybody began after it was over |
//!
//! No circle has only the last two; time is one line. Circles of wr alone, or with those two, are errors: a transaction is
//! visible all at once, so that what two transactions saw of each other has an order, and it is that of time. With ww among
//! them they are legal, since what Kafka's transactions send is not isolated from what others send meanwhile.
//!
//! "Was over before began" is a chain of *instants*: each call hangs on the last instant before it began, and the next
//! one after it was over hangs on it; so the graph stays linear in the history. What is in doubt is never over.

use rustc_hash::FxHashMap;

use crate::evidence::{Evidence, NONE};
use crate::history::{History, Key, Process, Value};
use crate::rules::{Rule, on};
use crate::verdict::{Finding, describe};
use crate::{Anomaly, Verdict};

const WW: u8 = 1;
const WR: u8 = 2;
const PROCESS: u8 = 4;
const REALTIME: u8 = 8;

/// What a circle is called: the steps that it may have, and those that it must.
const KINDS: [(Anomaly, u8, u8); 9] = [
    (Anomaly::G0, WW, WW),
    (Anomaly::G0Process, WW | PROCESS, WW | PROCESS),
    (Anomaly::G0Realtime, WW | PROCESS | REALTIME, WW | REALTIME),
    (Anomaly::G1c, WR, WR),
    (Anomaly::G1cProcess, WR | PROCESS, WR | PROCESS),
    (Anomaly::G1cRealtime, WR | PROCESS | REALTIME, WR | REALTIME),
    (Anomaly::G1cWw, WW | WR, WW | WR),
    (Anomaly::G1cWwProcess, WW | WR | PROCESS, WW | WR | PROCESS),
    (Anomaly::G1cWwRealtime, WW | WR | PROCESS | REALTIME, WW | WR | REALTIME),
];

pub(crate) fn check(history: &History, evidence: &Evidence, verdict: &mut Verdict) {
    let graph = Graph::build(history, evidence);
    // In nearly every history there is no circle at all, and this is all that happens.
    for part in graph.circular(0..graph.nodes() as u32, WW | WR | PROCESS | REALTIME) {
        for (anomaly, may, must) in KINDS {
            for circle in graph.circular(part.iter().copied(), may) {
                if let Some(walk) = graph.walk(&circle, may, must) {
                    verdict.error(anomaly, || tell(history, evidence, &graph, &walk));
                }
            }
        }
    }
}

/// Calls first, then instants.
struct Graph {
    calls: u32,
    /// The edges of node n are those from `starts[n]` to `starts[n + 1]`.
    starts: Vec<u32>,
    edges: Vec<(u32, u8)>,
}

impl Graph {
    fn build(history: &History, evidence: &Evidence) -> Graph {
        let calls = history.calls().len() as u32;
        let mut pairs: Vec<(u32, u32, u8)> = Vec::new();
        let mut nodes = calls;
        for key in history.keys() {
            let log = evidence.log(key);
            let mut before = NONE;
            for (index, (id, _)) in log.order.iter().enumerate() {
                let record = &log.records[*id as usize];
                // A record that stands twice counts where it stands last.
                if record.index as usize != index {
                    continue;
                }
                if before != NONE && record.writer != NONE && before != record.writer {
                    pairs.push((before, record.writer, WW));
                }
                before = record.writer;
            }
        }
        let mut last = (NONE, NONE);
        for (at, call) in history.calls().iter().enumerate() {
            for polled in call.f.polled() {
                let Some(record) = evidence.log(polled.key).record(polled.value) else { continue };
                let step = (record.writer, at as u32);
                if record.writer != NONE && step.0 != step.1 && step != last {
                    pairs.push((step.0, step.1, WR));
                    last = step;
                }
            }
        }
        let mut events: Vec<(u32, u32, bool)> = Vec::new();
        for (at, call) in history.calls().iter().enumerate().filter(|(_, call)| call.f.is_data()) {
            events.push((call.invoked.index, at as u32, false));
            let over = if on(Rule::DoubtfulCallsNeverEnd) { call.over() } else { call.heard() };
            events.extend(over.map(|over| (over, at as u32, true)));
        }
        events.sort_unstable();
        let mut all = Instants { kind: REALTIME, now: NONE, fresh: false };
        let mut own: FxHashMap<Process, Instants> = FxHashMap::default();
        for (_, at, over) in events {
            let process = history.calls()[at as usize].process;
            let own = own.entry(process).or_insert(Instants { kind: PROCESS, now: NONE, fresh: false });
            for instants in [&mut all, own] {
                if over {
                    instants.over(at, &mut nodes, &mut pairs);
                } else {
                    instants.begins(at, &mut pairs);
                }
            }
        }
        let mut starts = vec![0_u32; nodes as usize + 1];
        for (from, ..) in &pairs {
            starts[*from as usize + 1] += 1;
        }
        for node in 0..nodes as usize {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut edges = vec![(0, 0); pairs.len()];
        for (from, to, kind) in pairs {
            let place = &mut next[from as usize];
            edges[*place as usize] = (to, kind);
            *place += 1;
        }
        Graph { calls, starts, edges }
    }

    fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    fn from(&self, node: u32) -> &[(u32, u8)] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// The strongly connected parts of more than one node, by steps of these kinds among these nodes; each sorted, the
    /// one with the smallest node first. (Tarjan's algorithm, without recursion.)
    fn circular(&self, among: impl Iterator<Item = u32> + Clone, may: u8) -> Vec<Vec<u32>> {
        let members: Option<FxHashMap<u32, u32>> = (among.clone().size_hint().0 < self.nodes())
            .then(|| among.clone().enumerate().map(|(place, node)| (node, place as u32)).collect());
        let place = |node: u32| match &members {
            Some(members) => members.get(&node).copied(),
            None => Some(node),
        };
        let count = among.clone().count();
        let mut number = vec![NONE; count];
        let mut low = vec![NONE; count];
        let mut waiting = vec![false; count];
        let mut stack: Vec<u32> = Vec::new();
        let mut parts = Vec::new();
        let mut next = 0;
        let mut path: Vec<(u32, u32, usize)> = Vec::new();
        for root in among {
            let Some(root_at) = place(root) else { continue };
            if number[root_at as usize] != NONE {
                continue;
            }
            path.push((root, root_at, 0));
            while let Some((node, at, edge)) = path.pop() {
                let at = at as usize;
                if edge == 0 {
                    number[at] = next;
                    low[at] = next;
                    next += 1;
                    stack.push(node);
                    waiting[at] = true;
                }
                let mut deeper = None;
                let edges = self.from(node);
                let mut edge = edge;
                while edge < edges.len() {
                    let (to, kind) = edges[edge];
                    edge += 1;
                    if kind & may == 0 {
                        continue;
                    }
                    let Some(to_at) = place(to) else { continue };
                    if number[to_at as usize] == NONE {
                        deeper = Some((to, to_at));
                        break;
                    }
                    if waiting[to_at as usize] {
                        low[at] = low[at].min(number[to_at as usize]);
                    }
                }
                if let Some((to, to_at)) = deeper {
                    // An edge was taken, so that this node is not begun again.
                    path.push((node, at as u32, edge));
                    path.push((to, to_at, 0));
                    continue;
                }
                if low[at] == number[at] {
                    let from = stack.iter().rposition(|member| *member == node).unwrap_or(0);
                    let mut part = stack.split_off(from);
                    for member in &part {
                        if let Some(member) = place(*member) {
                            waiting[member as usize] = false;
                        }
                    }
                    if part.len() > 1 {
                        part.sort_unstable();
                        parts.push(part);
                    }
                }
                if let Some((_, above, _)) = path.last() {
                    let above = *above as usize;
                    low[above] = low[above].min(low[at]);
                }
            }
        }
        parts.sort();
        parts
    }

    /// A shortest walk in a circle among these nodes that has every kind of step that it must have.
    fn walk(&self, among: &[u32], may: u8, must: u8) -> Option<Vec<(u32, u8)>> {
        let within = |node: u32| among.binary_search(&node).is_ok();
        let mut best: Option<Vec<(u32, u8)>> = None;
        // Each of the rarest of these steps could be the one that it goes through; the first ones will do.
        let rare = [PROCESS, REALTIME, WR, WW].into_iter().find(|kind| must & kind != 0)?;
        let mut tries = 0;
        for start in among {
            for (to, kind) in self.from(*start) {
                if *kind != rare || !within(*to) || tries == TRIES_MAX {
                    continue;
                }
                tries += 1;
                let found = self.way(*to, *start, *kind, may, must, &within);
                if let Some(mut way) = found
                    && best.as_ref().is_none_or(|best| way.len() + 1 < best.len())
                {
                    way.insert(0, (*start, *kind));
                    best = Some(way);
                }
            }
        }
        best
    }

    /// The shortest way from one node to another, having taken all the steps that it must.
    fn way(
        &self,
        from: u32,
        to: u32,
        taken: u8,
        may: u8,
        must: u8,
        within: &impl Fn(u32) -> bool,
    ) -> Option<Vec<(u32, u8)>> {
        let mut seen: FxHashMap<State, Option<(State, u8)>> = FxHashMap::default();
        let first = (from, taken & must);
        seen.insert(first, None);
        let mut row = std::collections::VecDeque::from([first]);
        while let Some((node, taken)) = row.pop_front() {
            if node == to && taken == must {
                let mut way = Vec::new();
                let mut at = (node, taken);
                while let Some(Some((before, kind))) = seen.get(&at) {
                    way.push((before.0, *kind));
                    at = *before;
                }
                way.reverse();
                return Some(way);
            }
            for (next, kind) in self.from(node) {
                if kind & may == 0 || !within(*next) {
                    continue;
                }
                let state = (*next, taken | (kind & must));
                seen.entry(state).or_insert_with(|| {
                    row.push_back(state);
                    Some(((node, taken), *kind))
                });
            }
        }
        None
    }
}

/// A node, and which of the steps that a circle must have were taken on the way to it.
type State = (u32, u8);

/// Steps that are tried as the one that a circle is closed with.
const TRIES_MAX: usize = 64;

/// The instants at which something was over, each before the next.
struct Instants {
    kind: u8,
    now: u32,
    /// Nothing has begun since the last one.
    fresh: bool,
}

impl Instants {
    fn over(&mut self, call: u32, nodes: &mut u32, pairs: &mut Vec<(u32, u32, u8)>) {
        if !self.fresh {
            let next = *nodes;
            *nodes += 1;
            if self.now != NONE {
                pairs.push((self.now, next, self.kind));
            }
            self.now = next;
            self.fresh = true;
        }
        pairs.push((call, self.now, self.kind));
    }

    fn begins(&mut self, call: u32, pairs: &mut Vec<(u32, u32, u8)>) {
        if self.now != NONE {
            pairs.push((self.now, call, self.kind));
        }
        self.fresh = false;
    }
}

/// The steps of a circle, from call to call.
fn tell(history: &History, evidence: &Evidence, graph: &Graph, walk: &[(u32, u8)]) -> Finding {
    let first = walk.iter().position(|(node, _)| *node < graph.calls).unwrap_or(0);
    let mut finding = Finding { text: "a circle:".into(), ..Finding::default() };
    for step in 0..walk.len() {
        let (node, kind) = walk[(first + step) % walk.len()];
        if node >= graph.calls {
            continue;
        }
        finding.calls.push(node);
        let next = (1..=walk.len())
            .map(|ahead| walk[(first + step + ahead) % walk.len()].0)
            .find(|next| *next < graph.calls)
            .unwrap_or(node);
        let proof = proof(history, evidence, node, next, kind);
        let values: Vec<Value> = proof.map(|(_, value)| value).into_iter().collect();
        finding.values.extend(&values);
        finding.text += &format!("\n{}", describe(history, node, None, &values));
        finding.text += match kind {
            WW => "\n  its record stands before one of",
            WR => "\n  its record was read by",
            PROCESS => "\n  was over before the same process began",
            _ => "\n  was over before there began",
        };
        if let Some((key, value)) = proof {
            finding.text += &format!(" ({value} in {})", history.key_name(key));
        }
    }
    finding.text += "\nthe first one again";
    finding
}

/// The record by which one call depends on another.
fn proof(history: &History, evidence: &Evidence, from: u32, to: u32, kind: u8) -> Option<(Key, Value)> {
    let [from, to] = [from, to].map(|at| &history.calls()[at as usize].f);
    match kind {
        WR => from
            .sends()
            .map(|(key, value, _)| (key, value))
            .find(|sent| to.polled().any(|polled| (polled.key, polled.value) == *sent)),
        WW => from.sends().map(|(key, value, _)| (key, value)).find(|(key, value)| {
            to.sends().any(|(other, later, _)| {
                let log = evidence.log(*key);
                let placed = |value| log.record(value).is_some_and(|record| record.index != NONE);
                other == *key && placed(*value) && placed(later) && log.distance(*value, later) == 1
            })
        }),
        _ => None,
    }
}
