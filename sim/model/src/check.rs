//! Exploring a model: completely where its rules are to hold, until the first broken property where one of them is off.
//!
//! - **E1** The law, all rules on, holds in every scenario: every reachable state was looked at.
//! - **E2** No scenario has a cycle. So "eventually" is exact: a history that never gets there ends in a state in which
//!   nobody can do anything any more, and such a state is found.
//! - **E3** A rule is *needed* if some scenario breaks a property while that rule alone is off.
//! - **E4** A rule is *redundant* if no scenario does; then the rules that stand in for it are named, and with all of these off
//!   as well, and not before, a property breaks; and with only these off none.
//!
//! Everything that a table shows is the same on every machine: one thread explores breadth first, so what it finds first
//! is a shortest history.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{Debug, Write};
use std::hash::Hash;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// A set of rules that are off, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Off(u64);

impl Off {
    pub const NONE: Off = Off(0);

    #[must_use]
    pub const fn and(self, rule: u8) -> Off {
        Off(self.0 | 1 << rule)
    }

    pub const fn holds(self, rule: u8) -> bool {
        self.0 & 1 << rule != 0
    }
}

/// A protocol with its rules.
pub trait Subject {
    type Model: Model<State: Clone + Debug + Eq + Hash + Send + Sync, Action: Clone + Debug + PartialEq + Send>
        + Send
        + Sync
        + 'static;

    /// Of the markers on the page.
    const NAME: &'static str;

    fn rules() -> &'static [Rule];

    fn scenarios() -> &'static [Scenario];

    /// The model of a scenario, by its place in the list, in its usual bounds or in wider ones.
    fn model(scenario: usize, deep: bool, off: Off) -> Self::Model;
}

/// Bounds under which all interleavings are explored.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// For people.
    pub holds: &'static str,
}

#[derive(Debug)]
pub struct Rule {
    /// Its number in [`Off`].
    pub number: u8,
    pub name: &'static str,
    /// Where it is laid down.
    pub source: &'static str,
    /// What is done instead while it is off.
    pub without: &'static str,
    /// The scenario that shows it.
    pub shown_in: &'static str,
    /// Rules that stand in for it; none if it is needed.
    pub covered_by: &'static [u8],
}

/// What became of one exploration.
#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub depth: usize,
    pub broken: Option<Broken>,
    /// Something that should be possible, and that no history shows.
    pub unseen: Option<&'static str>,
}

#[derive(Debug)]
pub struct Broken {
    pub property: &'static str,
    /// The history, one action after the other.
    pub history: Vec<String>,
}

/// Explores until something breaks, or there is nothing left.
pub fn explore<M>(model: M) -> Explored
where
    M: Model<State: Clone + Debug + Eq + Hash + Send + Sync, Action: Clone + Debug + PartialEq + Send>
        + Send
        + Sync
        + 'static,
{
    let properties: Vec<(&'static str, Expectation)> =
        model.properties().iter().map(|property| (property.name, property.expectation.clone())).collect();
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = checker.discoveries();
    let broken = properties.iter().find_map(|(name, expectation)| {
        let path = found.remove(name).filter(|_| expectation.discovery_is_failure())?;
        let history = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
        Some(Broken { property: name, history })
    });
    let unseen = properties.iter().find_map(|(name, expectation)| {
        (*expectation == Expectation::Sometimes && checker.discovery(name).is_none()).then_some(*name)
    });
    Explored { states: checker.unique_state_count(), depth: checker.max_depth(), broken, unseen }
}

/// E2: whether some history comes back to where it was.
pub fn has_cycle<M>(model: &M) -> bool
where
    M: Model<State: Clone + Eq + Hash>,
{
    let mut numbers: HashMap<M::State, usize> = HashMap::new();
    let mut queue: Vec<M::State> = model.init_states();
    let mut next: Vec<Vec<usize>> = Vec::new();
    for state in &queue {
        let number = numbers.len();
        numbers.insert(state.clone(), number);
    }
    let mut at = 0;
    while at < queue.len() {
        let mut edges = Vec::new();
        for state in model.next_states(&queue[at].clone()) {
            let fresh = numbers.len();
            match numbers.entry(state) {
                Entry::Occupied(known) => edges.push(*known.get()),
                Entry::Vacant(place) => {
                    queue.push(place.key().clone());
                    place.insert(fresh);
                    edges.push(fresh);
                }
            }
        }
        next.push(edges);
        at += 1;
    }
    // Whatever has no predecessor left goes; a cycle stays.
    let mut before = vec![0usize; next.len()];
    next.iter().flatten().for_each(|to| before[*to] += 1);
    let mut free: Vec<usize> = (0..next.len()).filter(|state| before[*state] == 0).collect();
    let mut gone = 0;
    while let Some(state) = free.pop() {
        gone += 1;
        for to in &next[state] {
            before[*to] -= 1;
            if before[*to] == 0 {
                free.push(*to);
            }
        }
    }
    gone < next.len()
}

/// E1 and E2 in every scenario, and the table that says so.
///
/// # Panics
/// If either does not hold.
pub fn law<S: Subject>() -> String {
    let mut table = "| scenario | what is in it | states |\n|---|---|---:|\n".to_owned();
    for (index, scenario) in S::scenarios().iter().enumerate() {
        let Explored { states, broken, unseen, .. } = explore(S::model(index, false, Off::NONE));
        assert_eq!(unseen, None, "{}, {}: no history shows it", S::NAME, scenario.name);
        if let Some(Broken { property, history }) = broken {
            panic!("{}, {}: not \"{property}\" after\n  {}", S::NAME, scenario.name, history.join("\n  "));
        }
        assert!(!has_cycle(&S::model(index, false, Off::NONE)), "{}, {}: a cycle", S::NAME, scenario.name);
        let Scenario { name, holds } = scenario;
        writeln!(table, "| {name} | {holds} | {} |", grouped(states)).expect("a string takes everything");
    }
    table
}

/// E3 or E4 for every rule, and the table that says so.
///
/// # Panics
/// If what a rule claims does not hold.
pub fn rules<S: Subject>() -> String {
    let mut table = "| rule | source | without it | what breaks | scenario | steps | states |\n\
                     |---|---|---|---|---|---:|---:|\n"
        .to_owned();
    let (rows, wrong): (Vec<_>, Vec<_>) = S::rules().iter().map(row::<S>).partition(Result::is_ok);
    let wrong: Vec<String> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}:\n{}", S::NAME, wrong.join("\n"));
    rows.into_iter().flatten().for_each(|row| table.push_str(&row));
    table
}

/// E3 or E4 for a rule, as its row in the table.
fn row<S: Subject>(rule: &Rule) -> Result<String, String> {
    let Rule { number, name, source, without, shown_in, covered_by } = rule;
    let at = S::scenarios().iter().position(|scenario| scenario.name == *shown_in);
    let at = at.ok_or_else(|| format!("{name}: there is no scenario {shown_in}"))?;
    let alone = Off::NONE.and(*number);
    let mut also = String::new();
    if !covered_by.is_empty() {
        for (index, scenario) in S::scenarios().iter().enumerate() {
            if let Some(Broken { property, history }) = explore(S::model(index, false, alone)).broken {
                let history = history.join("\n    ");
                return Err(format!("{name}: not redundant in {}: {property}\n    {history}", scenario.name));
            }
        }
        // Minimal: with any one of them on, nothing breaks there.
        for kept in *covered_by {
            let others = covered_by.iter().filter(|other| *other != kept);
            let without = others.fold(alone, |off, other| off.and(*other));
            if explore(S::model(at, false, without)).broken.is_some() {
                return Err(format!("{name}: breaks with {} on", name_of::<S>(*kept)));
            }
        }
        // And not by what stands in for it alone.
        let others = covered_by.iter().fold(Off::NONE, |off, other| off.and(*other));
        if let Some(Broken { property, .. }) = explore(S::model(at, false, others)).broken {
            return Err(format!("{name}: on, and {property} is broken in {shown_in}"));
        }
        let names: Vec<&str> = covered_by.iter().map(|other| name_of::<S>(*other)).collect();
        also = format!(". Redundant: breaks only without *{}* as well", names.join("* and *"));
    }
    let off = covered_by.iter().fold(alone, |off, other| off.and(*other));
    let Explored { states, broken, .. } = explore(S::model(at, false, off));
    let Broken { property, history } =
        broken.ok_or_else(|| format!("{name}: nothing breaks in {shown_in} ({states} states)"))?;
    let (steps, states) = (history.len(), grouped(states));
    Ok(format!("| {name} | {source} | {without}{also} | {property} | {shown_in} | {steps} | {states} |\n"))
}

fn name_of<S: Subject>(number: u8) -> &'static str {
    let named = S::rules().iter().find(|rule| rule.number == number);
    named.unwrap_or_else(|| panic!("rule {number} is not in the list")).name
}

/// With commas between the thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
