//! Whether a volume that this process has taken may become its log (M3, M5): who else may write to it.
//!
//! ```text
//!   who opened it last, by its superblock ─┐
//!   who claimed it, by the metadata ───────┼─► judge ─► gone: proved │ left: only a reservation keeps them out │ rivals
//!   whoever is to format a blank one ──────┘
//! ```

use anyhow::bail;
use uuid::Uuid;
use wal::block::LastOwner;
use wal::block::reservation::{Host, LANDING_WAIT};
use wal::uri::Target;
use wal::{Incarnation, Uri};

use super::{Media, Ours, is_one_machines, is_regular_file, is_same, shut_out, whose_host};
use crate::machine;
use crate::metadata::command::Claiming;
use crate::metadata::image::{Claim, Image};
use crate::metadata::volumes::CLAIMS_MAX;

/// What is known of the last owner of a volume that is to be ours (M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWriter {
    /// It can write no more, nor acknowledge.
    Gone,
    /// It may acknowledge until its lease is over, which is waited out, and write until this process opens the log with a
    /// reservation.
    Leased,
    /// It may write until the device keeps it from it, which comes when it is fenced ([`Ours::shut_out`]).
    Reachable(Incarnation),
}

/// What [`check_ours`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub writer: LastWriter,
    /// To register with, where other hosts may reach the volume.
    pub claim: Option<Claiming>,
    /// Others are about to format a blank volume, which may be this one: they have to be waited for.
    pub wait: Option<String>,
}

impl Ours {
    /// Makes the device keep out the last owner, which is fenced. True if what it acknowledged is there to be read now;
    /// otherwise its lease has to be waited out.
    pub async fn shut_out(&self, last: Incarnation) -> bool {
        match &self.volume {
            // As `check_ours` found.
            Some(volume) => shut_out(volume, last, Host::Another).await,
            None => false,
        }
    }

    /// This process has registered as `life`, did not hear of it, and goes on as another one: nothing of it is opened, ever.
    pub fn is_not(&self, life: Incarnation) {
        self.forgone.lock().push(life);
    }

    /// Whether the claim of `life` has to outlive it, although it wrote nothing.
    pub fn rests_on(&self, life: Incarnation, image: &Image) -> bool {
        self.volume.as_ref().is_some_and(|volume| rests_on(image.claims(volume.id()), life, self.last_owner))
    }

    /// Whether `life` has claimed the volume.
    pub fn is_claimed_by(&self, life: Incarnation, image: &Image) -> bool {
        let claims = self.volume.as_ref().map_or(&[][..], |volume| image.claims(volume.id()));
        claims.iter().any(|claim| claim.life == life)
    }
}

/// Whether the volume that this process has taken may become the log of `broker` (M3, M5), and what is to be done first.
/// `detached`: the operator says that no other host can write to it. Disturbs nobody.
///
/// # Errors
/// With what to do about it.
pub fn check_ours(
    media: &Media,
    ours: &Ours,
    image: &Image,
    broker: u32,
    detached: bool,
) -> anyhow::Result<Judged> {
    let nobody = Judged { writer: LastWriter::Gone, claim: None, wait: None };
    let Some(volume) = &ours.volume else { return Ok(nobody) };
    let uri = ours.medium.uri();
    let Target::Block { path, .. } = uri.target()? else { return Ok(nobody) };
    if detached {
        volume.is_detached_elsewhere();
    }
    if is_regular_file(&path) && is_one_machines(&path) {
        return Ok(nobody);
    }
    let device = wal::block::device::identity(&path).unwrap_or_default();
    let known = Known {
        id: volume.id(),
        blank: volume.is_blank(),
        device: &device,
        uri,
        last: ours.last_owner,
        here: &media.machine,
        broker,
        detached,
        is_device: !is_regular_file(&path),
        forgone: &ours.forgone.lock().clone(),
    };
    let Writers { gone, left, rival } = known.judge(image);
    let is_there = |asked: Result<(), String>| asked.inspect_err(|reason| tracing::info!("{reason}")).is_ok();
    let writer = match left.first() {
        None => LastWriter::Gone,
        Some(first) if left.len() >= CLAIMS_MAX => bail!(first.one_of_too_many(left.len(), uri)),
        Some(first) => {
            let is_owner = ours.last_owner.is_some_and(|last| last.incarnation == first.life);
            let host = whose_host(first.machine, &media.machine);
            if is_owner && is_there(volume.prepare_to_shut_out(first.life, host)) {
                LastWriter::Reachable(first.life)
            } else if host::planted("format-early") {
                LastWriter::Gone
            } else if is_there(volume.has_reservations(first.life)) {
                LastWriter::Leased
            } else {
                bail!(first.refusal(uri, is_owner, &media.machine))
            }
        }
    };
    if writer != LastWriter::Gone {
        volume.rely_on_reservation();
        left.iter().for_each(|writer| tracing::info!("{}", writer.kept_out(uri)));
    }
    let claim = Claiming {
        volume: known.id,
        device: known.device.into(),
        blank: known.blank,
        alone: writer == LastWriter::Gone,
        judged: image.newest_registration(),
        gone,
    };
    Ok(Judged { writer, claim: Some(claim), wait: rival.map(|claim| known.wait_for(claim)) })
}

/// Whether it is the claim of `life` that says of a volume's last owner, which did not close it, that it can write no more: the
/// owner's own claim ended with this one, and without either nobody could tell.
fn rests_on(claims: &[Claim], life: Incarnation, owner: Option<LastOwner>) -> bool {
    let is_claimed_by = |life: Incarnation| claims.iter().any(|claim| claim.life == life);
    let owner = owner.filter(|owner| !owner.released);
    is_claimed_by(life) && owner.is_some_and(|owner| !is_claimed_by(owner.incarnation))
}

/// What there is to judge by.
#[derive(Clone, Copy)]
struct Known<'a> {
    id: Uuid,
    blank: bool,
    /// Its id, or nothing.
    device: &'a str,
    uri: &'a Uri,
    last: Option<LastOwner>,
    here: &'a str,
    /// The id that this process takes.
    broker: u32,
    /// The operator's word.
    detached: bool,
    /// Whose lock, of this kernel, this process holds.
    is_device: bool,
    /// Lives as which this process registered, and does not go on.
    forgone: &'a [Incarnation],
}

/// Who may write to the volume.
struct Writers<'a> {
    /// They can no more.
    gone: Vec<Incarnation>,
    /// They may whenever they like; its last owner first.
    left: Vec<Writer<'a>>,
    /// May be about to format it.
    rival: Option<&'a Claim>,
}

/// A life that may write, on a machine if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Writer<'a> {
    life: Incarnation,
    machine: Option<&'a str>,
}

impl Known<'_> {
    fn judge<'a>(&self, image: &'a Image) -> Writers<'a> {
        let mut writers = Writers { gone: Vec::new(), left: Vec::new(), rival: None };
        let claims = image.claims(self.id);
        if let Some(last) = self.last.filter(|last| claims.iter().all(|claim| claim.life != last.incarnation))
        {
            // A life that registered without a claim; or one that somebody vouched for, who did not get to open the log.
            let owner = last.incarnation;
            let info = image.broker(owner.broker).filter(|info| info.epoch == owner.epoch);
            let machine = info.map(|info| &*info.machine);
            let vouched = claims.iter().any(|claim| claim.alone && claim.life.epoch > owner.epoch);
            if !vouched && !self.is_gone(owner, machine) {
                writers.left.push(Writer { life: owner, machine });
            }
        }
        for claim in claims {
            let machine = Some(&*claim.machine);
            if self.is_gone(claim.life, machine) {
                writers.gone.push(claim.life);
            } else {
                writers.left.push(Writer { life: claim.life, machine });
            }
        }
        let owner = self.last.map(|last| last.incarnation);
        writers.left.sort_by_key(|writer| Some(writer.life) != owner);
        for (_, claim) in image.blank_claims(self.device).filter(|(id, _)| *id != self.id) {
            let same_kernel = self.is_device && machine::is_same_kernel(&claim.machine, self.here);
            let vouched = self.detached && claim.life.broker == self.broker;
            if vouched || (same_kernel && self.is_this_device(claim)) {
                writers.gone.push(claim.life);
            } else if self.blank && !self.detached && !same_kernel {
                // Under this kernel it would have the lock of this device, if it is to format this one.
                writers.rival = writers.rival.or(Some(claim));
            }
        }
        writers
    }

    /// Whether it is proved that this life can write to the volume no more.
    fn is_gone(&self, life: Incarnation, machine: Option<&str>) -> bool {
        let closed = self.last.is_some_and(|last| last.released && last.incarnation == life);
        let same_kernel = machine.is_some_and(|theirs| machine::is_same_kernel(theirs, self.here));
        closed || self.detached || (same_kernel && self.is_device) || self.forgone.contains(&life)
    }

    /// Whether a claim that was made under this kernel is of the device whose lock this process holds: by the device's own id, or
    /// by its path, which means the same to processes of one machine. Containers beside each other have paths of their own.
    fn is_this_device(&self, claim: &Claim) -> bool {
        let same_id = !self.device.is_empty() && *claim.device == *self.device;
        same_id || (*claim.machine == *self.here && is_same(&Uri(claim.wal_uri.to_string()), self.uri))
    }

    fn wait_for(&self, rival: &Claim) -> String {
        format!(
            "the write-ahead log {} is blank, and broker {} epoch {} (machine and boot: {}) is about to format one that is called {} \
             there: if both are the same volume, it would overwrite what is acknowledged here. Once that broker serves this one can \
             start, too. If it never will: start it again, or start this one with --wal-detached, this once, if its volume can be \
             written to by no other machine",
            self.uri, rival.life.broker, rival.life.epoch, rival.machine, rival.wal_uri
        )
    }
}

impl Writer<'_> {
    fn kept_out(&self, uri: &Uri) -> String {
        let Incarnation { broker, epoch } = self.life;
        format!(
            "nothing but a reservation keeps broker {broker} epoch {epoch} (machine and boot: {}) from writing to the write-ahead log \
             {uri}: this start waits {LANDING_WAIT:?} for what may be on its way, and every later one will. If that machine was only \
             started again, or is gone for good, start the next time with --wal-detached, this once",
            self.machine.unwrap_or("unknown")
        )
    }

    fn one_of_too_many(&self, count: usize, uri: &Uri) -> String {
        let Incarnation { broker, epoch } = self.life;
        format!(
            "{count} lives may still write to the write-ahead log {uri}, as many as are remembered, among them broker {broker} epoch \
             {epoch} (machine and boot: {}). If their machines were only started again, or else once the volume is detached from \
             them or they are stopped for good, start again with --wal-detached, this once",
            self.machine.unwrap_or("unknown")
        )
    }

    fn refusal(&self, uri: &Uri, opened: bool, here: &str) -> String {
        let Incarnation { broker, epoch } = self.life;
        let was = if opened {
            format!("was last written by broker {broker} epoch {epoch}, which did not close it")
        } else {
            format!(
                "was to be opened by broker {broker} epoch {epoch}, of which nobody knows whether it still will"
            )
        };
        format!(
            "the write-ahead log {uri} {was}, and nothing proves that it was on this machine as it runs now (machine and boot: {}, \
             here {here}; after a restart of the machine, or from a cloned one, or on a network's file system, nothing can): it may \
             still write to it, and would overwrite what is acknowledged here. If that machine was only started again, or else \
             once the volume is detached from it or it is stopped for good, start again with --wal-detached, this once",
            self.machine.unwrap_or("unknown")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::apply::At;
    use crate::metadata::command::{Command, FORMAT_VERSION, Registration};
    use crate::metadata::image::Listener;

    const VOLUME: Uuid = Uuid::from_u128(7);

    struct History {
        image: Image,
        number: u64,
    }

    impl History {
        fn new() -> History {
            let mut history = History { image: Image::empty(), number: 0 };
            history.apply(Command::Format { cluster_id: "a cluster".into(), format: FORMAT_VERSION });
            history
        }

        fn apply(&mut self, command: Command) {
            self.number += 1;
            self.image.apply(At { number: self.number, time_ms: 0 }, &command).unwrap();
        }

        /// Broker 1, on the machine `machine`, with a claim of `volume` unless its program knew of none.
        fn register(&mut self, machine: &str, uri: &str, claim: Option<Claiming>) -> Incarnation {
            self.apply(Command::RegisterBroker(Registration {
                broker: 1,
                wal_uri: uri.into(),
                lease_ms: 3_000,
                listener: Listener { host: "a host".into(), port: 9092 },
                rack: None,
                machine: machine.into(),
                replaces: self.image.last_registration(1),
                claim,
            }));
            Incarnation { broker: 1, epoch: self.number }
        }

        fn claiming(&self, volume: Uuid, blank: bool, alone: bool) -> Option<Claiming> {
            let judged = self.image.newest_registration();
            Some(Claiming { volume, device: "".into(), blank, alone, judged, gone: Vec::new() })
        }
    }

    /// A volume that is called so on the machine "m/1".
    struct Here {
        uri: Uri,
    }

    impl Here {
        fn known(&self, last: Option<(Incarnation, bool)>) -> Known<'_> {
            let last = last.map(|(incarnation, released)| LastOwner { incarnation, released });
            Known { last, ..known(&self.uri) }
        }
    }

    fn here() -> Here {
        Here { uri: Uri("block:///dev/volume".to_owned()) }
    }

    fn left(known: &Known<'_>, history: &History) -> Vec<Incarnation> {
        known.judge(&history.image).left.iter().map(|writer| writer.life).collect()
    }

    /// M5: it has registered, and nothing of it is on the volume yet. Whoever looks at the volume alone finds nobody.
    #[test]
    fn who_is_about_to_write_for_the_first_time_is_known_wherever_it_is() {
        for last in [None, Some(true)] {
            let mut history = History::new();
            let claim = history.claiming(Uuid::from_u128(1), false, true);
            let closed = history.register("a/2", "block:///dev/x", claim);
            let claim = history.claiming(VOLUME, false, true);
            let first = history.register("a/2", "block:///dev/another-name", claim);
            let last = last.map(|released| (closed, released));
            assert_eq!(left(&here().known(last), &history), [first]);
            assert_eq!(left(&Known { detached: true, ..here().known(last) }, &history), []);
            assert_eq!(
                left(&Known { here: "x/2", ..here().known(last) }, &history),
                [],
                "a container beside it"
            );
            assert_eq!(
                left(&Known { here: "a/4", ..here().known(last) }, &history),
                [first],
                "a clone of it"
            );
            assert_eq!(left(&Known { is_device: false, ..here().known(last) }, &history), [first]);
            // Fenced before it opened anything, so that otherwise nobody knows of it any more.
            let claim = history.claiming(VOLUME, false, false);
            let second = history.register("m/1", &here().uri.0, claim);
            assert!(history.image.life(first).is_none());
            assert_eq!(left(&here().known(last), &history), [first]);
            assert_eq!(here().known(last).judge(&history.image).gone, [second]);
            let closed = Some((second, true));
            assert_eq!(left(&here().known(closed), &history), [first], "a reservation is given back");
        }
    }

    /// A volume's last owner, by its superblock, whatever else is known of it.
    #[test]
    fn a_volumes_last_owner_is_judged_by_where_it_was() {
        let mut history = History::new();
        let owner = history.register("a/2", "block:///dev/volume", None);
        assert_eq!(left(&here().known(Some((owner, false))), &history), [owner]);
        assert_eq!(left(&here().known(Some((owner, true))), &history), [], "it closed its log");
        assert_eq!(left(&Known { here: "a/2", ..here().known(Some((owner, false))) }, &history), []);
        // Another volume of the same name, on this machine, says nothing of where this one was.
        let claim = history.claiming(Uuid::from_u128(8), false, true);
        history.register("m/1", "block:///dev/volume", claim);
        assert_eq!(left(&here().known(Some((owner, false))), &history), [owner]);
        // Somebody vouched for it, and did not get to open the log.
        let claim = history.claiming(VOLUME, false, true);
        let next = history.register("m/1", "block:///dev/volume", claim);
        assert_eq!(left(&here().known(Some((owner, false))), &history), []);
        assert_eq!(here().known(Some((owner, false))).judge(&history.image).gone, [next]);
        // The owner is named first: it may be shut out.
        let mut history = History::new();
        let claim = history.claiming(VOLUME, false, true);
        let first = history.register("a/2", "block:///dev/volume", claim);
        let claim = history.claiming(VOLUME, false, false);
        let second = history.register("b/3", "block:///dev/volume", claim);
        assert_eq!(left(&here().known(Some((second, false))), &history), [second, first]);
    }

    #[test]
    fn who_is_to_format_a_blank_volume_is_waited_for_unless_it_is_another() {
        let mut history = History::new();
        let claim = history.claiming(Uuid::from_u128(1), true, true);
        let first = history.register("a/2", "block:///dev/volume", claim);
        let blank = |here, uri, device| Known { blank: true, here, uri, device, ..known(uri) };
        let (here, other) = (here().uri, Uri("block:///dev/other".to_owned()));
        let rival = |known: &Known<'_>| known.judge(&history.image).rival.map(|claim| claim.life);
        assert_eq!(rival(&blank("m/1", &other, "")), Some(first));
        assert_eq!(rival(&blank("m/1", &other, "naa.1")), Some(first), "whose device has no id");
        assert_eq!(rival(&Known { blank: false, ..blank("m/1", &here, "") }), None);
        assert_eq!(rival(&Known { detached: true, ..blank("m/1", &here, "") }), None);
        // Under its kernel this process has the lock of its own device.
        for (uri, gone) in [(&here, vec![first]), (&other, vec![])] {
            let known = blank("a/2", uri, "");
            assert_eq!((rival(&known), known.judge(&history.image).gone), (None, gone));
        }
        // The operator speaks for one broker's volumes.
        for (broker, gone) in [(1, vec![first]), (2, vec![])] {
            let known = Known { detached: true, broker, ..blank("m/1", &other, "") };
            assert_eq!(known.judge(&history.image).gone, gone);
        }
        history.apply(Command::OpenLeaderships { by: first });
        assert_eq!(blank("m/1", &here, "").judge(&history.image).rival, None, "it is formatted");
    }

    /// A start that ended early on a blank volume leaves a claim of a volume by a name that none will ever have. Whoever has the
    /// device's lock under the same kernel ends it, or the operator, whatever was done with the device since: no later one
    /// has to wait for it.
    #[test]
    fn a_claim_of_a_blank_volume_that_came_to_nothing_is_ended_by_its_own_broker() {
        let mut history = History::new();
        let claim = history.claiming(Uuid::from_u128(1), true, true);
        let lost = history.register("m/1", "block:///dev/volume", claim);
        let uri = here().uri;
        let own = Some(LastOwner { incarnation: Incarnation { broker: 1, epoch: 1 }, released: true });
        let formatted = Known { last: own, ..known(&uri) };
        let gone = |known: &Known<'_>| known.judge(&history.image).gone;
        assert_eq!(gone(&formatted), [lost], "somebody else has formatted it since");
        for here in ["m/2", "n/9"] {
            assert_eq!(gone(&Known { here, ..formatted }), [], "nothing proves it");
            assert!(formatted.judge(&history.image).rival.is_none(), "and nobody need wait");
            assert_eq!(gone(&Known { here, detached: true, ..formatted }), [lost], "the operator says so");
        }
        // Two containers have different devices under one path; and one that is beside this one is no rival: it has a lock.
        for blank in [true, false] {
            let beside = Known { here: "x/1", blank, ..known(&uri) };
            assert_eq!((gone(&beside), beside.judge(&history.image).rival), (vec![], None));
        }
        // A device is known by its id, whatever it is called after it was attached again.
        let mut history = History::new();
        let judged = history.image.newest_registration();
        let device: std::sync::Arc<str> = "naa.1".into();
        let volume = Uuid::from_u128(1);
        let claim = Claiming { volume, device, blank: true, alone: true, judged, gone: Vec::new() };
        let lost = history.register("m/1", "block:///dev/nvme1n1", Some(claim));
        for (here, device, gone) in
            [("m/1", "naa.1", vec![lost]), ("x/1", "naa.1", vec![lost]), ("m/1", "", vec![])]
        {
            let known = Known { here, device, ..known(&uri) };
            assert_eq!(known.judge(&history.image).gone, gone, "{here} {device}");
        }
    }

    /// On a network's file system no lock proves anything: not even of what this process itself has asked for.
    #[test]
    fn a_registration_of_which_this_process_did_not_hear_is_its_own() {
        let mut history = History::new();
        let claim = history.claiming(VOLUME, false, true);
        let first = history.register("m/1", "block:///nfs/volume", claim);
        let uri = here().uri;
        let known = Known { is_device: false, ..known(&uri) };
        assert_eq!(left(&known, &history), [first]);
        let forgone = [first];
        let known = Known { forgone: &forgone, ..known };
        assert_eq!((left(&known, &history), known.judge(&history.image).gone), (vec![], vec![first]));
    }

    /// A start that ends before it opens the log gives its claim up only if nobody is judged by that: of the last owner, whose own
    /// claim ended with it, nobody could tell any more that it was a process of this kernel.
    #[test]
    fn a_claim_that_vouches_for_the_last_owner_is_not_given_up() {
        let mut history = History::new();
        let claim = history.claiming(VOLUME, false, true);
        let owner = history.register("m/1", "block:///dev/volume", claim);
        let (here, last) = (here(), |released| Some(LastOwner { incarnation: owner, released }));
        let known = here.known(Some((owner, false)));
        let Writers { gone, left, .. } = known.judge(&history.image);
        assert_eq!((&gone[..], left), (&[owner][..], vec![]));
        let claim = history.claiming(VOLUME, false, true).map(|claim| Claiming { gone, ..claim });
        let start = history.register("m/1", "block:///dev/volume", claim);
        let claims = history.image.claims(VOLUME).to_vec();
        assert!(rests_on(&claims, start, last(false)));
        assert!(!rests_on(&claims, start, last(true)), "its last word is on the volume");
        assert!(!rests_on(&claims, start, None), "there was nobody");
        assert!(!rests_on(&[], start, last(false)), "it has claimed nothing");
        let both: Vec<Claim> =
            claims.iter().cloned().chain([Claim { life: owner, ..claims[0].clone() }]).collect();
        assert!(!rests_on(&both, start, last(false)), "the owner's own claim is there");
        assert!(known.judge(&history.image).left.is_empty());
        history.apply(Command::CloseBroker { by: start });
        let left: Vec<Incarnation> =
            known.judge(&history.image).left.iter().map(|writer| writer.life).collect();
        assert_eq!(left, [owner], "which is why");
    }

    fn known(uri: &Uri) -> Known<'_> {
        Known {
            id: VOLUME,
            blank: false,
            device: "",
            uri,
            last: None,
            here: "m/1",
            broker: 1,
            detached: false,
            is_device: true,
            forgone: &[],
        }
    }
}
