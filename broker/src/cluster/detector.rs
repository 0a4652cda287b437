//! Who is alive, by what is heard: a state machine without sockets and clocks.
//!
//! ```text
//!   beats, refusals, ticks ──► what each life was last heard to say ──► whom *I* suspect ──► told in my next beats
//!                                                                          │
//!   what the others' beats say that *they* suspect ────────────────────────┴──► who is dead
//! ```
//!
//! Nothing here is needed for safety: whoever is called dead is fenced by an entry of the metadata log, and a life that is
//! fenced although it is well loses nothing but its work. These rules are about not doing so without need, and about not
//! waiting longer than needed.
//!
//! - **D1** *Silence.* A life is heard by any beat of its own, asked for or not. One that was not heard for
//!   [`silence`](Config::silence) is suspected until it is heard again.
//! - **D2** *Refusal.* A life whose address refuses connections for [`refusal`](Config::refusal), while it is not heard, is
//!   suspected without waiting for more silence: a killed process is seen by that. Where a life was heard although its
//!   address refused, its address proves nothing. From its first refusal on it is said to [refuse](Verdicts::refusing): nothing may
//!   follow from that but what saves time and harms nobody.
//! - **D3** *Patience.* A life that has not opened yet, that says that it leaves, or that this process never heard, is
//!   suspected only after [`patience`](Config::patience), whether its address refuses or is silent.
//! - **D4** *Unanimity.* Dead is whom this life suspects and everybody who can be asked suspects too: everybody who is heard,
//!   does not leave, and has read the log as far as to know the accused. Whoever has just woken up is waited for, but no
//!   longer than one more `silence`. So a link that is cut between two brokers kills nobody while a third hears both. (Two
//!   witnesses out of many would be enough to make two brokers with bad links a plague for the others.)
//! - **D5** *Not from a corner.* A life accuses only while more than half of all lives, itself included, are reached: heard,
//!   or, once they were heard, found to refuse, which is proof of a network that works. Of two lives each may accuse. After
//!   [`minority_patience`](Config::minority_patience) anybody may: perhaps most of them lost power at once, and nobody has
//!   fenced this life meanwhile as a majority would have. See D9.
//! - **D6** *Ailing.* A life that has been saying for longer than its lease that it cannot reach the store, and that has not reached it
//!   for four times `silence` (it says so when its lease is over), is dead, for those who can reach it, while more than half of
//!   all lives are reached and well (or there are two). A life that is ailing itself accuses nobody, and one that has not been well
//!   for twice that time accuses nobody of ailing: where the store is slow for everybody, all ail by turns, and each in its good
//!   moment would fence the others. A short lease is no reason to be hasty: it ends with one answer of the store that is late. Nor
//!   does that count for the accuser's own health, unless it has not reached the store for twice `silence`.
//! - **D7** *Own pauses.* Time in which this process did not run is no silence of others. After a gap between two ticks of
//!   more than half of `silence` everybody gets a whole new `silence`, and refusals are counted anew; until then this life
//!   calls itself blind.
//! - **D8** *Only who is registered.* What is said by or about a life that the metadata does not list as living leaves no
//!   trace here; memory is bounded by the metadata. There is no verdict on oneself.
//! - **D9** *The elder stays.* Who has never heard a life that was there before it, and accuses it without a majority, waits for
//!   one more `patience`. Where two live and their link is cut, both are patient with whom they never heard, and the elder,
//!   which leads everything by now, learns last that the other is there. With equal patience the newcomer would fence it, and
//!   then be the elder to the next newcomer, without an end. So the newcomer is fenced, and as often as it comes back; what
//!   moves is what it leads, which is nothing. An elder that is dead fences nobody, and is fenced that much later: nothing
//!   that a newcomer can see from its corner tells the two apart. An address that refuses is no proof (a firewall
//!   does so), nor is silence in the metadata log (who is idle appends nothing).
//! - **D10** *Untried.* A life that came after this one and that it has not heard within `silence` gets nothing to lead from it,
//!   though it is not suspected yet: perhaps nobody will ever hear it. An elder gets its share: it is heard by those that it
//!   was there with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wal::Incarnation;

use super::wire::{Beat, SUSPECTS_MAX};

/// Times. All are spans of this process's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often each peer is told that this broker lives. Default 250 ms.
    pub beat_interval: Duration,
    /// Default 1.5 s. See D1.
    pub silence: Duration,
    /// Default 10 s. See D3.
    pub patience: Duration,
    /// Default 30 s. See D5.
    pub minority_patience: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            beat_interval: Duration::from_millis(250),
            silence: Duration::from_millis(1_500),
            patience: Duration::from_secs(10),
            minority_patience: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// How long an address must refuse: longer than the pause between two beats.
    pub fn refusal(&self) -> Duration {
        self.beat_interval * 3 / 2
    }

    /// A gap between two ticks that counts as a pause.
    fn pause(&self) -> Duration {
        self.silence / 2
    }

    /// How often [`Detector::tick`] wants to be called: often enough that a pause is told from a late tick.
    pub fn tick_interval(&self) -> Duration {
        (self.silence / 24).max(Duration::from_millis(1))
    }

    /// What is wrong with it, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        require(!self.beat_interval.is_zero(), "the interval of beats must not be zero")?;
        require(
            self.silence >= self.beat_interval * 3,
            "the silence must be three intervals of beats at least",
        )?;
        require(self.patience >= self.silence, "the patience must not be below the silence")?;
        require(
            self.minority_patience >= self.patience,
            "the patience of a minority must not be below the patience",
        )
    }
}

/// What the metadata says of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// It has opened: it may lead partitions, and its listener is there or about to be.
    pub open: bool,
    pub lease: Duration,
}

/// What speaks against a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its address refuses connections.
    Refused,
    Silent,
    /// It says that it cannot reach the store.
    Ailing,
}

impl std::fmt::Display for Why {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Why::Refused => "its address refuses connections",
            Why::Silent => "it is silent",
            Why::Ailing => "it says that it cannot reach the store",
        })
    }
}

/// What is thought of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub why: Why,
    /// To be fenced. Otherwise it is only suspected: nothing new should be given to it.
    pub dead: bool,
}

/// Every life that is not taken to be well, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    verdicts: BTreeMap<Incarnation, Verdict>,
    refusing: BTreeSet<Incarnation>,
}

impl Verdicts {
    pub fn of(&self, life: Incarnation) -> Option<Verdict> {
        self.verdicts.get(&life).copied()
    }

    /// Lives that are to be fenced.
    pub fn dead(&self) -> impl Iterator<Item = (Incarnation, Why)> {
        self.verdicts.iter().filter(|(_, verdict)| verdict.dead).map(|(life, verdict)| (*life, verdict.why))
    }

    /// Lives whose address refuses, suspected yet or not (D2).
    pub fn refusing(&self) -> impl Iterator<Item = Incarnation> {
        self.refusing.iter().copied()
    }

    /// All of them, the dead included.
    pub fn iter(&self) -> impl Iterator<Item = (Incarnation, Verdict)> {
        self.verdicts.iter().map(|(life, verdict)| (*life, *verdict))
    }

    /// With one more verdict.
    pub fn with(mut self, life: Incarnation, verdict: Verdict) -> Verdicts {
        self.verdicts.insert(life, verdict);
        self
    }

    /// With one more life whose address refuses.
    pub fn with_refusing(mut self, life: Incarnation) -> Verdicts {
        self.refusing.insert(life);
        self
    }
}

/// What is known of another life.
#[derive(Clone, Debug)]
struct Peer {
    member: Member,
    known_since: Duration,
    heard: Option<Duration>,
    /// From the first to the last refusal since it was heard.
    refused: Option<(Duration, Duration)>,
    /// It was heard although its address refused (D2).
    address_is_wrong: bool,
    ailing_since: Option<Duration>,
    suspected_since: Option<(Duration, Why)>,
    /// What it last said.
    beat: Option<Beat>,
}

impl Peer {
    fn is_leaving(&self) -> bool {
        self.beat.as_ref().is_some_and(|beat| beat.leaving)
    }
}

/// See the module. Time is a span since any fixed moment; it never goes back.
#[derive(Debug)]
pub struct Detector {
    config: Config,
    own: Incarnation,
    peers: BTreeMap<Incarnation, Peer>,
    /// When this process began, or last found that it had not run (D7).
    awake_since: Duration,
    ticked: Duration,
    /// Of this life; until the metadata has said so, none is longer.
    lease: Duration,
    /// Since when this life has said that it cannot reach the store.
    ailing_since: Option<Duration>,
    /// Since when it has been well, but for hiccups (D6); if it is not, when that was looked at last.
    well_since: Duration,
}

impl Detector {
    pub fn new(config: Config, own: Incarnation, now: Duration) -> Detector {
        Detector {
            config,
            own,
            peers: BTreeMap::new(),
            awake_since: now,
            ticked: now,
            lease: Duration::MAX,
            ailing_since: None,
            well_since: now,
        }
    }

    /// The lives that the metadata lists as living, in any order; this one included, if it does.
    pub fn members(&mut self, now: Duration, lives: impl IntoIterator<Item = (Incarnation, Member)>) {
        let mut was = std::mem::take(&mut self.peers);
        for (life, member) in lives {
            if life == self.own {
                self.lease = member.lease;
                continue;
            }
            let peer = was.remove(&life).unwrap_or(Peer {
                member,
                known_since: now,
                heard: None,
                refused: None,
                address_is_wrong: false,
                ailing_since: None,
                suspected_since: None,
                beat: None,
            });
            self.peers.insert(life, Peer { member, ..peer });
        }
    }

    /// A beat has come. `answered`: as the answer to one of ours, so that its address is right. `false` if nobody of that
    /// name is a member (D8).
    pub fn heard(&mut self, now: Duration, beat: Beat, answered: bool) -> bool {
        // What a killed process sent last is no later than that.
        let lag = self.config.beat_interval / 2;
        let Some(peer) = self.peers.get_mut(&beat.from) else { return false };
        if answered {
            peer.address_is_wrong = false;
        } else if peer.refused.is_some_and(|(first, _)| now.saturating_sub(first) >= lag) {
            peer.address_is_wrong = true;
        }
        peer.heard = Some(now);
        peer.refused = None;
        peer.ailing_since = if beat.ailing { peer.ailing_since.or(Some(now)) } else { None };
        peer.beat = Some(beat);
        true
    }

    /// Its address refused a connection, or somebody else answered there.
    pub fn refused(&mut self, now: Duration, life: Incarnation) {
        if let Some(peer) = self.peers.get_mut(&life) {
            let first = peer.refused.map_or(now, |(first, _)| first);
            peer.refused = Some((first, now));
        }
    }

    /// Whether this life reaches the store.
    pub fn set_ailing(&mut self, now: Duration, ailing: bool) {
        self.ailing_since = if ailing { self.ailing_since.or(Some(now)) } else { None };
        let hiccup = (self.config.silence * 2).saturating_sub(self.lease);
        if self.ailing_since.is_some_and(|since| now.saturating_sub(since) >= hiccup) {
            self.well_since = now;
        }
    }

    /// Whether it has been listening for too short a time to miss anybody (D7).
    pub fn is_blind(&self, now: Duration) -> bool {
        now.saturating_sub(self.awake_since) < self.config.silence
    }

    /// Time has passed. To be called every [`Config::tick_interval`].
    pub fn tick(&mut self, now: Duration) -> Verdicts {
        if now.saturating_sub(self.ticked) > self.config.pause() {
            self.awake_since = now;
            self.peers.values_mut().for_each(|peer| peer.refused = None);
        }
        self.ticked = now;
        for life in self.peers.keys().copied().collect::<Vec<_>>() {
            let why = self.speaks_against(now, &self.peers[&life]);
            let peer = self.peers.get_mut(&life).expect("just listed");
            peer.suspected_since = why.map(|why| (peer.suspected_since.map_or(now, |(since, _)| since), why));
        }
        let mut verdicts = BTreeMap::new();
        for (life, peer) in &self.peers {
            if let Some((since, why)) = peer.suspected_since {
                let dead = self.ailing_since.is_none()
                    && self.may_accuse(now, *life, since)
                    && self.everybody_agrees(now, *life, since);
                verdicts.insert(*life, Verdict { why, dead });
            } else if peer.ailing_since.is_some() {
                let dead = self.ails_for_too_long(now, peer);
                verdicts.insert(*life, Verdict { why: Why::Ailing, dead });
            }
        }
        let refuses = |peer: &Peer| peer.refused.is_some() && self.is_settled(peer) && !peer.address_is_wrong;
        let refusing = self.peers.iter().filter(|(_, peer)| refuses(peer)).map(|(life, _)| *life).collect();
        Verdicts { verdicts, refusing }
    }

    /// Whom this life suspects, for its beats; bounded.
    pub fn suspects(&self) -> Vec<Incarnation> {
        let suspected = self.peers.iter().filter(|(_, peer)| peer.suspected_since.is_some());
        suspected.map(|(life, _)| *life).take(SUSPECTS_MAX).collect()
    }

    /// D10.
    pub fn untried(&self, now: Duration) -> impl Iterator<Item = Incarnation> {
        let known_for = move |peer: &Peer| now.saturating_sub(peer.known_since.max(self.awake_since));
        let untried = self.peers.iter().filter(move |(life, peer)| {
            life.epoch > self.own.epoch && peer.heard.is_none() && known_for(peer) >= self.config.silence
        });
        untried.map(|(life, _)| *life)
    }

    /// How long ago a life was heard, and what it said.
    pub fn last_heard(&self, now: Duration, life: Incarnation) -> Option<(Duration, &Beat)> {
        let peer = self.peers.get(&life)?;
        Some((now.saturating_sub(peer.heard?), peer.beat.as_ref()?))
    }

    /// D3.
    fn is_settled(&self, peer: &Peer) -> bool {
        peer.member.open && !peer.is_leaving() && peer.heard.is_some()
    }

    /// D1 to D3.
    fn speaks_against(&self, now: Duration, peer: &Peer) -> Option<Why> {
        let settled = self.is_settled(peer);
        if let Some((first, last)) = peer.refused
            && settled
            && !peer.address_is_wrong
            && last.saturating_sub(first) >= self.config.refusal()
        {
            return Some(Why::Refused);
        }
        let limit = if settled { self.config.silence } else { self.config.patience };
        let since = peer.heard.unwrap_or(peer.known_since).max(self.awake_since);
        (now.saturating_sub(since) >= limit).then_some(Why::Silent)
    }

    /// Heard lately.
    fn is_heard(&self, now: Duration, peer: &Peer) -> bool {
        peer.suspected_since.is_none()
            && peer.heard.is_some_and(|heard| now.saturating_sub(heard) < self.config.silence)
    }

    /// D5, D9. `since`: when this life began to suspect it.
    fn may_accuse(&self, now: Duration, accused: Incarnation, since: Duration) -> bool {
        let is_unheard_elder = accused.epoch < self.own.epoch && self.peers[&accused].heard.is_none();
        let head_start = if is_unheard_elder { self.config.patience } else { Duration::ZERO };
        let waited = now.saturating_sub(since);
        let lives = self.peers.len() + 1;
        let refuses = |peer: &Peer| {
            let lately = |(_, last)| now.saturating_sub(last) < self.config.silence;
            peer.heard.is_some() && peer.refused.is_some_and(lately)
        };
        let reached = |peer: &&Peer| self.is_heard(now, peer) || refuses(peer);
        let reached = 1 + self.peers.values().filter(reached).count();
        reached * 2 > lives
            || lives == 2 && waited >= head_start
            || waited >= self.config.minority_patience + head_start
    }

    /// D4.
    fn everybody_agrees(&self, now: Duration, accused: Incarnation, since: Duration) -> bool {
        let waited = now.saturating_sub(since) >= self.config.silence;
        self.peers.iter().filter(|(life, peer)| **life != accused && self.is_heard(now, peer)).all(
            |(_, peer)| {
                let beat = peer.beat.as_ref().expect("it is heard");
                let cannot_say = beat.leaving || beat.number < accused.epoch || beat.blind && waited;
                cannot_say || beat.suspects.contains(&accused)
            },
        )
    }

    /// D6.
    fn ails_for_too_long(&self, now: Duration, peer: &Peer) -> bool {
        let lives = self.peers.len() + 1;
        let too_long = peer.member.lease.max((self.config.silence * 4).saturating_sub(peer.member.lease));
        let well = |peer: &Peer| self.is_heard(now, peer) && peer.ailing_since.is_none();
        let well = 1 + self.peers.values().filter(|peer| well(peer)).count();
        self.ailing_since.is_none()
            && now.saturating_sub(self.well_since) > too_long * 2
            && (lives == 2 || well * 2 > lives)
            && peer.heard.is_some_and(|heard| heard >= self.awake_since)
            && peer.ailing_since.is_some_and(|since| now.saturating_sub(since) > too_long)
    }
}

#[cfg(test)]
mod tests;
