//! The plan, carried out through the AWS SDK.

use std::error::Error as _;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    BucketInfo, BucketLifecycleConfiguration, BucketLocationConstraint, BucketType,
    CreateBucketConfiguration, DataRedundancy, LocationInfo, LocationType,
};
use object_store::client::{HttpConnector, ReqwestConnector};

use super::elements::KnownElements;
use super::http::Http;
use super::rules::{Decision, decide};
use super::{Error, Plan, s3};
use crate::store::metered::Connector;
use crate::store::{Access, Patience};

/// How many pages of an account's buckets are looked through: a thousand buckets each where there are many.
const BUCKET_PAGES_MAX: usize = 100;

/// What was found, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub bucket: Bucket,
    pub rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucket {
    Created,
    /// It was there, and is this account's.
    Ours,
    /// It was there and can be read. Whose it is the store did not say, and why not.
    Usable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Added,
    Replaced,
    Unchanged,
}

/// Creates what is missing.
///
/// # Errors
/// What went wrong in which step. What was done before stays, and is found by the next try.
pub async fn carry_out(plan: &Plan, access: &Access) -> Result<Done, Error> {
    let client = connect(plan, access).await?;
    let bucket = ensure_bucket(&client, plan).await?;
    let rule = ensure_rule(&client, plan).await?;
    Ok(Done { bucket, rule })
}

async fn connect(plan: &Plan, access: &Access) -> Result<Client, Error> {
    let limits = &access.limits;
    let patience = Patience { limits, timeout: limits.data_timeout, retries_max: limits.data_retries_max };
    let target = s3::target(&plan.bucket, &access.s3)?;
    let failed = |error: object_store::Error| Error::Request {
        doing: "finding credentials for S3".to_owned(),
        detail: error.to_string(),
    };
    let http = ReqwestConnector::default().connect(&patience.client(target.allow_http)).map_err(failed)?;
    let path_style = target.path_style;
    // The object_store client is asked for its keys alone: they are found as for every other command.
    let connector = Connector::new(&plan.bucket, Default::default());
    let keys = s3::client(&plan.bucket, target, &patience, connector)?.credentials().get_credential().await;
    let keys = keys.map_err(failed)?;
    let keys = Credentials::new(&keys.key_id, &keys.secret_key, keys.token.clone(), None, "ottla");
    Ok(client(plan, keys, path_style, Http(http), &patience))
}

fn client(plan: &Plan, keys: Credentials, path_style: bool, http: Http, patience: &Patience<'_>) -> Client {
    let attempts = u32::try_from(patience.retries_max).unwrap_or(u32::MAX).saturating_add(1);
    let retries = RetryConfig::standard()
        .with_max_attempts(attempts)
        .with_max_backoff(patience.limits.data_retry_pause_max);
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(plan.region.clone()))
        .credentials_provider(keys)
        .force_path_style(path_style)
        .http_client(http)
        .retry_config(retries)
        // Not every server that speaks S3 knows them.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    config.set_endpoint_url(plan.endpoint.clone());
    Client::from_conf(config.build())
}

/// Looks before it creates: in us-east-1, and on some servers, creating a bucket that is ours succeeds, and resets its
/// access control lists.
async fn ensure_bucket(client: &Client, plan: &Plan) -> Result<Bucket, Error> {
    match among_ours(client, plan).await? {
        Ownership::Ours { region } => match region {
            // Servers other than AWS have their own ideas of what to call it.
            Some(actual) if plan.endpoint.is_none() && actual != plan.region => {
                Err(Error::Region { bucket: plan.bucket.clone(), actual, asked: plan.region.clone() })
            }
            _ => Ok(Bucket::Ours),
        },
        Ownership::NotOurs => create(client, plan).await,
        Ownership::NotSaid(why) => {
            let mut listing = client.list_objects_v2().bucket(&plan.bucket).max_keys(1);
            if !plan.key_prefix.is_empty() {
                listing = listing.prefix(&plan.key_prefix);
            }
            match listing.send().await {
                Ok(_) => Ok(Bucket::Usable(why)),
                Err(error) if error.code() == Some("NoSuchBucket") => create(client, plan).await,
                Err(error) if is_denied(&error) => {
                    Err(Error::Closed { bucket: plan.bucket.clone(), detail: explain(&error) })
                }
                Err(error) => Err(request(plan, "looking into the bucket", &error)),
            }
        }
    }
}

enum Ownership {
    /// `region` where the store says it.
    Ours { region: Option<String> },
    /// Somebody else's, or nobody's yet.
    NotOurs,
    /// The store does not say, and why.
    NotSaid(String),
}

/// Looks for the bucket among those of the account.
async fn among_ours(client: &Client, plan: &Plan) -> Result<Ownership, Error> {
    let mut token = None;
    for _ in 0..BUCKET_PAGES_MAX {
        let page = if plan.zone.is_some() {
            let page = client.list_directory_buckets().set_continuation_token(token).send().await;
            page.map(|page| (page.buckets, page.continuation_token)).map_err(|error| refused(plan, &error))
        } else {
            let page = client.list_buckets().prefix(&plan.bucket).set_continuation_token(token).send().await;
            page.map(|page| (page.buckets, page.continuation_token)).map_err(|error| refused(plan, &error))
        };
        let (buckets, next) = match page {
            Ok(page) => page,
            Err(refused) => return refused,
        };
        let of_this_name = |bucket: &aws_sdk_s3::types::Bucket| bucket.name() == Some(&plan.bucket);
        if let Some(bucket) = buckets.unwrap_or_default().into_iter().find(of_this_name) {
            return Ok(Ownership::Ours { region: bucket.bucket_region });
        }
        token = next;
        if token.is_none() {
            return Ok(Ownership::NotOurs);
        }
    }
    Ok(Ownership::NotSaid(format!(
        "it is not among the account's first buckets, {BUCKET_PAGES_MAX} pages of them"
    )))
}

/// What a refused listing of buckets means.
fn refused<E>(plan: &Plan, error: &SdkError<E>) -> Result<Ownership, Error>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let not_there = ["NotImplemented", "MethodNotAllowed"];
    if is_denied(error) || error.code().is_some_and(|code| not_there.contains(&code)) {
        return Ok(Ownership::NotSaid(explain(error)));
    }
    Err(request(plan, "listing the account's buckets to look for", error))
}

async fn create(client: &Client, plan: &Plan) -> Result<Bucket, Error> {
    let request_of =
        client.create_bucket().bucket(&plan.bucket).set_create_bucket_configuration(configuration(plan));
    match request_of.send().await {
        Ok(_) => Ok(Bucket::Created),
        // Somebody was faster, or an attempt of ours that seemed to have failed.
        Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(Bucket::Ours),
        Err(error) if error.code() == Some("BucketAlreadyExists") => {
            Err(Error::Foreign { bucket: plan.bucket.clone(), detail: explain(&error) })
        }
        Err(error) => Err(request(plan, "creating the bucket", &error)),
    }
}

/// Where the bucket is to be; `None` for the region that needs no saying.
fn configuration(plan: &Plan) -> Option<CreateBucketConfiguration> {
    let configuration = CreateBucketConfiguration::builder();
    let Some(zone) = &plan.zone else {
        let region = BucketLocationConstraint::from(plan.location_constraint()?);
        return Some(configuration.location_constraint(region).build());
    };
    let (location, redundancy) = match plan.is_local_zone() {
        true => (LocationType::LocalZone, DataRedundancy::SingleLocalZone),
        false => (LocationType::AvailabilityZone, DataRedundancy::SingleAvailabilityZone),
    };
    let bucket = BucketInfo::builder().r#type(BucketType::Directory).data_redundancy(redundancy).build();
    let location = LocationInfo::builder().r#type(location).name(zone).build();
    Some(configuration.location(location).bucket(bucket).build())
}

async fn ensure_rule(client: &Client, plan: &Plan) -> Result<Rule, Error> {
    let reading = client.get_bucket_lifecycle_configuration().bucket(&plan.bucket);
    let (present, minimum_size) = match reading.customize().interceptor(KnownElements).send().await {
        Ok(present) => (present.rules.unwrap_or_default(), present.transition_default_minimum_object_size),
        Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => (Vec::new(), None),
        Err(error) => return Err(request(plan, "reading the lifecycle rules of the bucket", &error)),
    };
    let (rules, replaces) = match decide(plan, &present) {
        Decision::Leave => return Ok(Rule::Unchanged),
        Decision::Write { rules, replaces } => (rules, replaces),
        Decision::Refuse(rules) => {
            let Plan { bucket, key_prefix, .. } = plan.clone();
            return Err(Error::Harmful { bucket, key_prefix, rules });
        }
    };
    let rules = BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build().expect("it has rules");
    client
        .put_bucket_lifecycle_configuration()
        .bucket(&plan.bucket)
        .lifecycle_configuration(rules)
        // Somebody else's choice, which would fall back to the default.
        .set_transition_default_minimum_object_size(minimum_size)
        .send()
        .await
        .map_err(|error| request(plan, "writing the lifecycle rules of the bucket", &error))?;
    Ok(if replaces { Rule::Replaced } else { Rule::Added })
}

fn is_denied(error: &impl ProvideErrorMetadata) -> bool {
    error.code() == Some("AccessDenied")
}

fn request<E>(plan: &Plan, doing: &str, error: &SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    Error::Request { doing: format!("{doing} {}", plan.bucket), detail: explain(error) }
}

/// What the store said; where it said nothing, what happened on the way.
fn explain<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(code) = error.code() {
        let reason = error.message().filter(|message| !message.is_empty());
        return format!("{code}: {}", reason.unwrap_or("the store gave no reason"));
    }
    let mut text = match error.raw_response() {
        Some(answer) => format!("HTTP status {}", answer.status()),
        None => error.to_string(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
    use parking_lot::Mutex;

    use super::*;
    use crate::store::{Limits, Location};

    /// The far end of the wire, where AWS is not: notes what it is asked and answers with what it was given.
    #[derive(Clone, Debug)]
    struct Wire {
        answers: Arc<Mutex<Vec<(u16, &'static str)>>>,
        asked: Arc<Mutex<Vec<(String, String)>>>,
    }

    #[async_trait]
    impl HttpService for Wire {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let (head, body) = request.into_parts();
            let body = String::from_utf8(body.as_bytes().expect("it is in one piece").to_vec()).unwrap();
            self.asked.lock().push((format!("{} {}", head.method, head.uri), body));
            let (status, body) = self.answers.lock().remove(0);
            let mut answer = HttpResponse::new(body.to_owned().into());
            *answer.status_mut() = status.try_into().unwrap();
            Ok(answer)
        }
    }

    /// What is asked of AWS for `store` in us-west-2, and what came of it.
    async fn asked(
        store: &str,
        answers: &[(u16, &'static str)],
    ) -> (Vec<(String, String)>, Result<Bucket, Error>, Result<Rule, Error>) {
        let mut access = Access::default();
        access.s3.region = Some("us-west-2".to_owned());
        let plan = Plan::new(&store.parse::<Location>().unwrap(), &access, 1).unwrap();
        let wire = Wire { answers: Arc::new(Mutex::new(answers.to_vec())), asked: Arc::default() };
        let limits = Limits::default();
        let patience = Patience { limits: &limits, timeout: limits.data_timeout, retries_max: 0 };
        let keys = Credentials::new("id", "secret", None, None, "test");
        let client = client(&plan, keys, false, Http(HttpClient::new(wire.clone())), &patience);
        let bucket = ensure_bucket(&client, &plan).await;
        let rule = if bucket.is_ok() { ensure_rule(&client, &plan).await } else { Ok(Rule::Unchanged) };
        let asked = wire.asked.lock().clone();
        (asked, bucket, rule)
    }

    const NO_RULES: (u16, &str) = (404, "<Error><Code>NoSuchLifecycleConfiguration</Code></Error>");

    #[tokio::test]
    async fn a_directory_bucket_is_created_in_its_zone_by_the_region() {
        let none = "<ListAllMyDirectoryBucketsResult><Buckets/></ListAllMyDirectoryBucketsResult>";
        let (asked, bucket, rule) =
            asked("s3://bucket--usw2-az1--x-s3/c", &[(200, none), (200, ""), NO_RULES, (200, "")]).await;
        assert_eq!((bucket.unwrap(), rule.unwrap()), (Bucket::Created, Rule::Added));
        let control = "https://s3express-control.us-west-2.amazonaws.com/";
        for (request, _) in &asked {
            assert!(request.contains(control), "{request}");
        }
        let (create, body) = &asked[1];
        assert!(create.starts_with(&format!("PUT {control}bucket--usw2-az1--x-s3")), "{create}");
        for part in [
            "<Location><Type>AvailabilityZone</Type><Name>usw2-az1</Name></Location>",
            "<DataRedundancy>SingleAvailabilityZone</DataRedundancy><Type>Directory</Type>",
        ] {
            assert!(body.contains(part), "{body}");
        }
        assert!(!body.contains("LocationConstraint"), "{body}");
        let (_, rules) = &asked[3];
        assert!(
            rules.contains("<Prefix>c/</Prefix>") && rules.contains("<DaysAfterInitiation>1<"),
            "{rules}"
        );
    }

    #[tokio::test]
    async fn a_bucket_is_created_in_its_region() {
        let none = "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
        let (asked, bucket, _) = asked("s3://bucket/c", &[(200, none), (200, ""), NO_RULES, (200, "")]).await;
        assert_eq!(bucket.unwrap(), Bucket::Created);
        let (create, body) = &asked[1];
        assert!(create.starts_with("PUT https://bucket.s3.us-west-2.amazonaws.com/"), "{create}");
        assert!(body.contains("<LocationConstraint>us-west-2</LocationConstraint>"), "{body}");
    }

    #[tokio::test]
    async fn a_bucket_of_another_region_is_not_taken_for_one_of_this() {
        let there = "<ListAllMyBucketsResult><Buckets><Bucket><Name>bucket2</Name></Bucket><Bucket><Name>bucket</Name>\
                     <BucketRegion>eu-west-1</BucketRegion></Bucket></Buckets></ListAllMyBucketsResult>";
        let (asked, bucket, _) = asked("s3://bucket/c", &[(200, there)]).await;
        let said = bucket.unwrap_err().to_string();
        assert!(said.contains("--s3-region eu-west-1"), "{said}");
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test]
    async fn a_bucket_that_may_not_be_looked_at_is_not_created_again() {
        let denied = (403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>");
        let (asked, bucket, _) = asked("s3://bucket/c", &[denied, denied]).await;
        let said = bucket.unwrap_err().to_string();
        assert!(said.contains("AccessDenied: no") && said.contains("s3:ListBucket"), "{said}");
        assert_eq!(asked.len(), 2);
    }

    #[tokio::test]
    async fn rules_that_are_not_understood_are_not_written_back() {
        let there = "<ListAllMyBucketsResult><Buckets><Bucket><Name>bucket</Name></Bucket></Buckets></ListAllMyBucketsResult>";
        let rules = "<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter><ArchiveZone/></Filter></Rule>\
                     </LifecycleConfiguration>";
        let (asked, bucket, rule) = asked("s3://bucket/c", &[(200, there), (200, rules)]).await;
        assert_eq!(bucket.unwrap(), Bucket::Ours);
        let said = rule.unwrap_err().to_string();
        assert!(said.contains("<ArchiveZone>"), "{said}");
        assert_eq!(asked.len(), 2);
    }
}
