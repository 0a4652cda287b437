//! Setting up a bucket on S3: the bucket itself, and the lifecycle rule that aborts uploads which nobody will finish.
//!
//! ```text
//!   Plan            what is wanted: bucket, region or zone, prefix, days      ── pure, always built
//!     by_hand()     the same as commands of the `aws` tool
//!     carry_out()   through the AWS SDK                                       ── feature `aws-sdk`
//!       sdk.rs      is it there, whose is it, create; read, decide, write the rules
//!       rules.rs    from the rules that are there to the rules that are to be ── pure
//!       elements.rs are all of them understood?
//!       http.rs     the SDK's requests through the HTTP client of every other command
//! ```
//!
//! object_store has no calls for any of this, and a broker needs none: only `ottla store create` comes here. Keys,
//! region, endpoint and time-outs are those of every other command (`s3::target`).
//!
//! - C1 A bucket that is there is changed in nothing but its lifecycle rules.
//! - C2 Of these only the one with our ID for this prefix is ever replaced or added; where another holds anything that the
//!   SDK does not know, nothing is written. S3 takes all rules at once and has no condition for that: a rule that somebody
//!   else adds between the reading and the writing is lost, as with every tool.
//! - C3 Where an enabled rule would delete or move objects under the prefix, nothing is written and the rule is named.
//! - C4 A bucket of another account is refused: whoever owns it reads everything.
//!
//! **Retries**: the SDK's own; each step may be taken again, as may the whole. **Cancellation, crash**: what was done
//! stays; doing it again completes it.

#[cfg(feature = "aws-sdk")]
mod elements;
#[cfg(feature = "aws-sdk")]
mod http;
#[cfg(feature = "aws-sdk")]
mod rules;
#[cfg(feature = "aws-sdk")]
mod sdk;

use object_store::path::Path;

use super::{Access, Cloud, Location, s3};

#[cfg(feature = "aws-sdk")]
pub use sdk::{Bucket, Done, Rule, carry_out};

/// How long S3 takes an ID of a rule to be at most, in characters.
const RULE_ID_CHARACTERS_MAX: usize = 255;

/// What is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub bucket: String,
    /// What the cluster's keys begin with: empty, or with a slash at its end.
    pub key_prefix: String,
    pub region: String,
    /// The zone of a directory bucket.
    pub zone: Option<String>,
    /// Where it is not AWS itself.
    pub endpoint: Option<String>,
    /// After how many days an upload that was not finished is aborted.
    pub unfinished_upload_days: u16,
}

/// Why a bucket was not set up, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`ottla store create` creates buckets on S3 alone. {0}")]
    NotS3(String),
    #[error(
        "the bucket {bucket} is a directory bucket, as its name says, and AWS alone creates those: leave out the endpoint \
         {endpoint} (--s3-endpoint, AWS_ENDPOINT_URL)"
    )]
    ZoneElsewhere { bucket: String, endpoint: String },
    #[error(transparent)]
    Store(#[from] super::Error),
    /// C4.
    #[error(
        "the bucket {bucket} belongs to another account ({detail}). The names of buckets are shared by all of AWS: choose \
         another one"
    )]
    Foreign { bucket: String, detail: String },
    #[error(
        "the bucket {bucket} cannot be looked at: {detail}. It is another account's (then choose another name), or these \
         credentials lack s3:ListBucket on it, which every broker needs"
    )]
    Closed { bucket: String, detail: String },
    #[error("the bucket {bucket} is in the region {actual}, not in {asked}. Say --s3-region {actual}")]
    Region { bucket: String, actual: String, asked: String },
    /// C3.
    #[error(
        "nothing was written: these lifecycle rules of the bucket {bucket} would destroy the cluster's data under \
         {key_prefix:?}, since only its own metadata knows what is garbage: {}. Delete them, disable them, or narrow them \
         to other prefixes",
        rules.join("; ")
    )]
    Harmful { bucket: String, key_prefix: String, rules: Vec<String> },
    /// `doing` names the step.
    #[error("{doing}: {detail}")]
    Request { doing: String, detail: String },
}

impl Plan {
    /// # Errors
    /// A store that is not on S3; options that [`open`](super::open) would refuse as well.
    pub fn new(location: &Location, access: &Access, unfinished_upload_days: u16) -> Result<Plan, Error> {
        let (bucket, prefix) = match location {
            Location::Directory(path) => {
                return Err(Error::NotS3(format!(
                    "The directory {} needs no creating: `ottla serve` does that",
                    path.display()
                )));
            }
            Location::Bucket { cloud: Cloud::Gcs, bucket, .. } => {
                return Err(Error::NotS3(format!(
                    "For Google: gcloud storage buckets create gs://{bucket} --location=LOCATION"
                )));
            }
            Location::Bucket { cloud: Cloud::Azure, bucket, .. } => {
                return Err(Error::NotS3(format!(
                    "For Azure: az storage container create --name {bucket} --account-name ACCOUNT"
                )));
            }
            Location::Bucket { cloud: Cloud::S3, bucket, prefix } => (bucket, prefix),
        };
        let target = s3::target(bucket, &access.s3)?;
        let zone = s3::zone(bucket).map(str::to_owned);
        if let (Some(_), Some(endpoint)) = (&zone, &target.endpoint) {
            return Err(Error::ZoneElsewhere { bucket: bucket.clone(), endpoint: endpoint.clone() });
        }
        // As object_store spells it in keys.
        let prefix = Path::from(prefix.as_str());
        Ok(Plan {
            bucket: bucket.clone(),
            key_prefix: if prefix.as_ref().is_empty() { String::new() } else { format!("{prefix}/") },
            region: target.region,
            zone,
            endpoint: target.endpoint,
            unfinished_upload_days,
        })
    }

    /// What our rule for this prefix is called: several clusters may share a bucket.
    pub fn rule_id(&self) -> String {
        let id = format!("ottla-unfinished-uploads-{}", self.key_prefix.trim_end_matches('/'));
        if id.chars().count() <= RULE_ID_CHARACTERS_MAX {
            return id.trim_end_matches('-').to_owned();
        }
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, self.key_prefix.as_bytes());
        format!("ottla-unfinished-uploads-{crc:016x}")
    }

    /// Whether the region must be named when a bucket is created: everywhere but in the one that there was first.
    fn location_constraint(&self) -> Option<&str> {
        (self.zone.is_none() && self.region != s3::DEFAULT_REGION).then_some(self.region.as_str())
    }

    /// Whether the zone is one of the local ones, which S3 has its own words for. Their ids have a part more:
    /// `usw2-lax1-az1`, where those of a region's own zones are like `usw2-az1`.
    fn is_local_zone(&self) -> bool {
        self.zone.as_deref().is_some_and(|zone| zone.split('-').count() > 2)
    }

    /// What to do where `carry_out` was not built in.
    #[cfg(any(test, not(feature = "aws-sdk")))]
    pub fn without_the_sdk(&self) -> String {
        format!(
            "this ottla was built without the AWS SDK, which `store create` needs. Build one with `cargo build --release \
             --features aws-sdk`, or use the aws tool:\n\n{}",
            self.by_hand()
        )
    }

    /// The plan as commands of the `aws` tool, for a shell.
    pub fn by_hand(&self) -> String {
        let at = match &self.endpoint {
            Some(endpoint) => format!(" --endpoint-url {}", quoted(endpoint)),
            None => String::new(),
        };
        let endpoint = match &self.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => {
                format!(" --s3-endpoint {} --s3-allow-http", quoted(endpoint))
            }
            Some(endpoint) => format!(" --s3-endpoint {}", quoted(endpoint)),
            None => String::new(),
        };
        let of = format!("--bucket {} --region {}{at}", quoted(&self.bucket), quoted(&self.region));
        let configuration = match (&self.zone, self.location_constraint()) {
            (Some(zone), _) => {
                let (location, redundancy) = match self.is_local_zone() {
                    true => ("LocalZone", "SingleLocalZone"),
                    false => ("AvailabilityZone", "SingleAvailabilityZone"),
                };
                Some(serde_json::json!({
                    "Location": {"Type": location, "Name": zone},
                    "Bucket": {"Type": "Directory", "DataRedundancy": redundancy},
                }))
            }
            (None, Some(region)) => Some(serde_json::json!({"LocationConstraint": region})),
            (None, None) => None,
        };
        let configuration = match configuration {
            Some(json) => format!(" \\\n    --create-bucket-configuration {}", quoted(&json.to_string())),
            None => String::new(),
        };
        let rules = serde_json::json!({"Rules": [{
            "ID": self.rule_id(),
            "Status": "Enabled",
            "Filter": {"Prefix": self.key_prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": self.unfinished_upload_days},
        }]});
        format!(
            "  aws s3api create-bucket {of}{configuration}\n\
             \x20 aws s3api get-bucket-lifecycle-configuration {of}\n\
             \x20   # It says NoSuchLifecycleConfiguration? Go on. It shows rules? Add them to the one below, for the next command\n\
             \x20   # replaces them all; and see that none of them expires or moves objects under the prefix.\n\
             \x20 aws s3api put-bucket-lifecycle-configuration {of} \\\n    --lifecycle-configuration {}\n\
             \x20 ottla store check --store {} --s3-region {}{endpoint}\n",
            quoted(&rules.to_string()),
            quoted(&format!("s3://{}/{}", self.bucket, self.key_prefix)),
            quoted(&self.region),
        )
    }
}

/// One word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
    match word.bytes().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use object_store::prefix::PrefixStore;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::*;
    use crate::store::S3Options;

    fn plan(store: &str, region: &str) -> Result<Plan, Error> {
        let s3 = S3Options { region: Some(region.to_owned()), ..S3Options::default() };
        Plan::new(&store.parse().unwrap(), &Access { s3, ..Access::default() }, 2)
    }

    #[test]
    fn a_plan_says_what_the_url_and_the_options_say() {
        let expected = Plan {
            bucket: "b".to_owned(),
            key_prefix: "a/b c/".to_owned(),
            region: "eu-central-1".to_owned(),
            zone: None,
            endpoint: None,
            unfinished_upload_days: 2,
        };
        assert_eq!(plan("s3://b/a/b c/", "eu-central-1").unwrap(), expected);
        assert_eq!(plan("s3://b", "eu-central-1").unwrap().key_prefix, "");
        let zonal = plan("s3://b--usw2-az1--x-s3/c", "us-west-2").unwrap();
        assert_eq!((zonal.zone.as_deref(), zonal.is_local_zone()), (Some("usw2-az1"), false));
        assert!(plan("s3://b--usw2-lax1-az1--x-s3", "us-west-2").unwrap().is_local_zone());
    }

    #[tokio::test]
    async fn a_prefix_is_spelled_as_it_is_in_keys() {
        for prefix in ["", "plain", "a/b", "que*ry%", "ä"] {
            let location = format!("s3://b/{prefix}").parse().unwrap();
            let store = Arc::new(InMemory::new());
            PrefixStore::new(store.clone(), prefix).put(&Path::from("x"), "x".into()).await.unwrap();
            let written = store.list(None).try_next().await.unwrap().unwrap().location;
            let plan = Plan::new(&location, &Access::default(), 1).unwrap();
            assert_eq!(written.as_ref(), format!("{}x", plan.key_prefix));
        }
    }

    #[test]
    fn what_is_not_on_s3_is_told_what_to_do() {
        for (store, expected) in [
            ("file:data", "`ottla serve` does that"),
            ("gs://b/p", "gcloud storage buckets create gs://b"),
            ("az://c/p", "az storage container create --name c"),
        ] {
            let error = plan(store, "us-east-1").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_directory_bucket_is_not_looked_for_elsewhere() {
        let s3 = S3Options { endpoint: Some("https://h".to_owned()), ..S3Options::default() };
        let access = Access { s3, ..Access::default() };
        let error = Plan::new(&"s3://b--usw2-az1--x-s3".parse().unwrap(), &access, 1).unwrap_err();
        assert!(error.to_string().contains("leave out the endpoint https://h"), "{error}");
    }

    #[test]
    fn rules_of_two_clusters_have_two_names() {
        let id = |prefix: &str| plan(&format!("s3://b/{prefix}"), "us-east-1").unwrap().rule_id();
        assert_eq!(id(""), "ottla-unfinished-uploads");
        assert_eq!(id("one/two"), "ottla-unfinished-uploads-one/two");
        let long = |last: &str| id(&("x".repeat(400) + last));
        assert!(long("a").chars().count() <= RULE_ID_CHARACTERS_MAX);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn the_commands_name_a_region_only_where_s3_wants_one() {
        let by_hand = |store: &str, region: &str| plan(store, region).unwrap().by_hand();
        assert!(!by_hand("s3://b/p", "us-east-1").contains("create-bucket-configuration"));
        let elsewhere = by_hand("s3://b/it's", "eu-central-1");
        assert!(elsewhere.contains(r#"'{"LocationConstraint":"eu-central-1"}'"#), "{elsewhere}");
        assert!(elsewhere.contains(r#""Filter":{"Prefix":"it'\''s/"}"#), "{elsewhere}");
        let zonal = by_hand("s3://b--usw2-az1--x-s3", "us-west-2");
        assert!(zonal.contains(r#""Name":"usw2-az1""#) && !zonal.contains("LocationConstraint"), "{zonal}");
    }

    #[test]
    fn without_the_sdk_it_says_how_it_is_done_by_hand() {
        let said = plan("s3://bucket/x", "eu-central-1").unwrap().without_the_sdk();
        for expected in [
            "--features aws-sdk",
            r#"aws s3api create-bucket --bucket bucket --region eu-central-1"#,
            r#"{"LocationConstraint":"eu-central-1"}"#,
            r#""Filter":{"Prefix":"x/"}"#,
            "ottla store check --store s3://bucket/x/ --s3-region eu-central-1",
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }
}
