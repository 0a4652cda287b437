//! A namespace for each host, all joined to one hub that routes between them.
//!
//! ```text
//!   host n: 10.77.n.2 ── veth ── 10.77.n.1 hub
//! ```
//!
//! A cut is a rule of the hub's: what comes in from one host for the other vanishes, as on a line that is down. Nobody is
//! told. It needs nothing of the kernel but policy routing.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fd::AsFd;
use rustix::thread::LinkNameSpaceType;
use tokio::process::Command;

use crate::scene::Scene;

/// A place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Broker(u32),
    Store,
    Clients,
}

impl Host {
    fn number(self) -> u32 {
        match self {
            Host::Broker(id) => id,
            Host::Store => 100,
            Host::Clients => 101,
        }
    }

    pub fn name(self) -> String {
        match self {
            Host::Broker(id) => format!("b{id}"),
            Host::Store => "store".to_owned(),
            Host::Clients => "clients".to_owned(),
        }
    }

    pub fn address(self) -> String {
        format!("10.77.{}.2", self.number())
    }
}

const HUB: &str = "hub";

pub struct Network<'s> {
    scene: &'s Scene,
    cuts: BTreeSet<(Host, Host)>,
}

impl<'s> Network<'s> {
    /// Builds it, and moves this thread into the hub, from where every host can be reached.
    pub async fn build(scene: &'s Scene, hosts: &[Host]) -> anyhow::Result<Network<'s>> {
        let network = Network { scene, cuts: BTreeSet::new() };
        let hub = scene.namespace(HUB);
        ip(&format!("netns add {hub}")).await.context("a namespace cannot be made")?;
        for host in hosts {
            let (namespace, n) = (scene.namespace(&host.name()), host.number());
            ip(&format!("netns add {namespace}")).await?;
            ip(&format!("-n {namespace} link add line type veth peer name h{n} netns {hub}")).await?;
            ip(&format!("-n {namespace} address add {}/24 dev line", host.address())).await?;
            ip(&format!("-n {namespace} link set line up")).await?;
            ip(&format!("-n {namespace} link set lo up")).await?;
            ip(&format!("-n {hub} address add 10.77.{n}.1/24 dev h{n}")).await?;
            ip(&format!("-n {hub} link set h{n} up")).await?;
            ip(&format!("-n {namespace} route add default via 10.77.{n}.1")).await?;
        }
        let file = File::open(Path::new("/run/netns").join(&hub))?;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        // Of the namespace that this thread is in now.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(network)
    }

    /// What `from` sends to `to` no longer arrives.
    pub async fn cut(&mut self, from: Host, to: Host) -> anyhow::Result<()> {
        if self.cuts.insert((from, to)) {
            self.rule("add", from, to).await?;
        }
        Ok(())
    }

    pub async fn heal(&mut self) -> anyhow::Result<()> {
        while let Some((from, to)) = self.cuts.pop_first() {
            self.rule("delete", from, to).await?;
        }
        Ok(())
    }

    async fn rule(&self, verb: &str, from: Host, to: Host) -> anyhow::Result<()> {
        let hub = self.scene.namespace(HUB);
        let (from, to) = (from.number(), to.number());
        ip(&format!("-n {hub} rule {verb} iif h{from} to 10.77.{to}.0/24 blackhole")).await
    }
}

async fn ip(arguments: &str) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().await.context("ip (iproute2) is needed")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
