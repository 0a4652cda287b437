//! `ottla store create`: what stands before a bucket's first broker.

use std::process::Command;

use crate::refusals::refusal;
use crate::s3::S3Server;

/// Keys and region come from the arguments and the environment alone, whatever the machine has.
fn create(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.args(["store", "create"]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test-secret");
    command
}

#[test]
fn a_store_that_is_not_on_s3_is_told_how_it_is_created() {
    for (store, expected) in [
        ("gs://b/p", "gcloud storage buckets create gs://b"),
        ("az://c/p", "az storage container create"),
        ("file:data", "`ottla serve` does that"),
    ] {
        let said = refusal(create(&["--store", store]));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn plain_http_is_refused_unless_it_was_allowed() {
    let said = refusal(create(&["--store", "s3://bucket/x", "--s3-endpoint", &S3Server::moto().endpoint()]));
    assert!(said.contains("--s3-allow-http"), "{said}");
}

#[cfg(not(feature = "aws-sdk"))]
#[test]
fn without_the_sdk_it_is_refused() {
    let said = refusal(create(&["--store", "s3://bucket/x", "--s3-region", "eu-central-1"]));
    assert!(said.contains("aws s3api create-bucket"), "{said}");
}

/// With the SDK, on moto.
#[cfg(feature = "aws-sdk")]
mod with_the_sdk {
    use std::process::Command;

    use faults::Port;

    use super::{create, refusal};
    use crate::process::{Ottla, Server, Storage, installed, run, source};
    use crate::s3::S3Server;

    fn new_name() -> String {
        format!("created-{}", uuid::Uuid::new_v4())
    }

    fn on(endpoint: &str, bucket: &str, options: &[&str]) -> Command {
        let store = format!("s3://{bucket}/cluster");
        let mut command = create(&["--store", &store, "--s3-endpoint", endpoint, "--s3-allow-http"]);
        command.args(options);
        command
    }

    /// Asks with Amazon's own client for Python; `s3` and `endpoint` are there.
    fn python(endpoint: &str, script: &str, arguments: &[&str]) -> String {
        let begin = "import boto3, json, sys\nendpoint = sys.argv[1]\n\
                     def client(name, key='test', secret='test-secret', token=None):\n  \
                     return boto3.client(name, endpoint_url=endpoint, region_name='us-east-1', aws_access_key_id=key, \
                     aws_secret_access_key=secret, aws_session_token=token)\ns3 = client('s3')\n";
        run(Command::new(installed("venv/bin/python"))
            .args(["-c", &format!("{begin}{script}"), endpoint])
            .args(arguments))
    }

    /// A bucket that was there before.
    fn bucket_on(endpoint: &str) -> String {
        let bucket = new_name();
        python(endpoint, "s3.create_bucket(Bucket=sys.argv[2])", &[&bucket]);
        bucket
    }

    /// The rules of a bucket as JSON, in their order.
    fn rules(endpoint: &str, bucket: &str) -> Vec<serde_json::Value> {
        let script = "print(json.dumps(s3.get_bucket_lifecycle_configuration(Bucket=sys.argv[2])['Rules']))";
        serde_json::from_str(&python(endpoint, script, &[bucket])).unwrap()
    }

    fn put_rules(endpoint: &str, bucket: &str, rules: &serde_json::Value) {
        let script = "s3.put_bucket_lifecycle_configuration(Bucket=sys.argv[2],\n  \
                      LifecycleConfiguration={'Rules': json.loads(sys.argv[3])})";
        python(endpoint, script, &[bucket, &rules.to_string()]);
    }

    fn ours(days: u16) -> serde_json::Value {
        serde_json::json!({
            "ID": "ottla-unfinished-uploads-cluster",
            "Filter": {"Prefix": "cluster/"},
            "Status": "Enabled",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        })
    }

    #[test]
    fn a_bucket_is_created_once_and_a_broker_lives_in_it() {
        let endpoint = S3Server::moto().endpoint();
        let bucket = new_name();
        let said = run(&mut on(&endpoint, &bucket, &[]));
        assert!(said.contains(&format!("bucket {bucket}: created (us-east-1)")), "{said}");
        assert!(said.contains("cluster: added") && said.contains("after 1 day."), "{said}");
        assert!(said.contains("exactly one winner"), "{said}");
        assert_eq!(rules(&endpoint, &bucket), [ours(1)]);

        let mut broker = Ottla::on(Storage::BucketObject, S3Server::moto)
            .with(&["--store", &format!("s3://{bucket}/cluster")]);
        broker.start();
        run(&mut broker.cli(&["produce", "created", "kept"]));
        // Beside a living broker, too.
        let said = run(&mut on(&endpoint, &bucket, &[]));
        assert!(said.contains("was there, and is yours") && said.contains("cluster: was there"), "{said}");
        broker.kill();
        broker.start();
        assert_eq!(run(&mut broker.cli(&["consume", "created", "--from-beginning"])), "kept\n");
        broker.stop();
        run(&mut broker.tool(&["verify", "--checksums"]));
    }

    /// moto refuses a location that is not the region of the request, and none where there has to be one.
    #[test]
    fn a_bucket_is_created_in_the_region_that_was_asked_for() {
        let endpoint = S3Server::moto().endpoint();
        let bucket = new_name();
        let said = run(&mut on(&endpoint, &bucket, &["--s3-region", "eu-central-1"]));
        assert!(said.contains("created (eu-central-1)"), "{said}");
        let script = "print(s3.get_bucket_location(Bucket=sys.argv[2])['LocationConstraint'])";
        assert_eq!(python(&endpoint, script, &[&bucket]), "eu-central-1\n");
        let said = run(&mut on(&endpoint, &bucket, &["--s3-region", "eu-central-1"]));
        assert!(said.contains("is yours"), "{said}");
    }

    #[test]
    fn rules_of_others_are_kept() {
        let endpoint = S3Server::moto().endpoint();
        let bucket = bucket_on(&endpoint);
        let others = serde_json::json!([
            {"ID": "logs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 3}},
            {"ID": "of old", "Prefix": "old/", "Status": "Enabled",
             "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}]},
            {"ID": "tagged", "Filter": {"And": {"Prefix": "", "Tags": [{"Key": "k", "Value": "<v>"}]}},
             "Status": "Enabled", "Expiration": {"Days": 1}},
            {"ID": "earlier versions", "Filter": {"Prefix": "cluster/"}, "Status": "Enabled",
             "NoncurrentVersionExpiration": {"NoncurrentDays": 2}},
            {"ID": "off", "Filter": {"Prefix": ""}, "Status": "Disabled", "Expiration": {"Days": 1}},
        ]);
        put_rules(&endpoint, &bucket, &others);
        let before = rules(&endpoint, &bucket);
        assert_eq!(before.len(), 5);

        let said = run(&mut on(&endpoint, &bucket, &[]));
        assert!(said.contains("is yours") && said.contains("cluster: added"), "{said}");
        let with = |days| [before.clone(), vec![ours(days)]].concat();
        assert_eq!(rules(&endpoint, &bucket), with(1));
        let said = run(&mut on(&endpoint, &bucket, &["--unfinished-upload-days", "7"]));
        assert!(said.contains("cluster: changed") && said.contains("after 7 days."), "{said}");
        assert_eq!(rules(&endpoint, &bucket), with(7));
    }

    #[test]
    fn a_rule_that_would_destroy_data_is_refused_and_nothing_is_written() {
        let endpoint = S3Server::moto().endpoint();
        for (prefix, does) in [("", "deletes all objects"), ("cluster/wal/", "deletes objects under")] {
            let bucket = bucket_on(&endpoint);
            let rule = serde_json::json!([
                {"ID": "tidy up", "Filter": {"Prefix": prefix}, "Status": "Enabled", "Expiration": {"Days": 3}},
            ]);
            put_rules(&endpoint, &bucket, &rule);
            let said = refusal(on(&endpoint, &bucket, &[]));
            assert!(said.contains("\"tidy up\"") && said.contains(does), "{said}");
            assert_eq!(serde_json::json!(rules(&endpoint, &bucket)), rule);
        }
    }

    #[test]
    fn a_bucket_of_another_account_is_refused() {
        let endpoint = S3Server::moto().endpoint();
        let bucket = bucket_on(&endpoint);
        let script = "role = client('sts').assume_role(RoleArn='arn:aws:iam::111111111111:role/other',\n  \
                      RoleSessionName='other')['Credentials']\n\
                      print(role['AccessKeyId'], role['SecretAccessKey'], role['SessionToken'])";
        let keys = python(&endpoint, script, &[]);
        let [id, secret, token] = keys.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{keys}") };
        let mut command = on(&endpoint, &bucket, &[]);
        command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
        command.env("AWS_SESSION_TOKEN", token);
        let said = refusal(command);
        assert!(said.contains("belongs to another account (BucketAlreadyExists"), "{said}");
        assert!(!said.contains(secret) && !said.contains(token), "{said}");
    }

    /// A moto that lets the first three requests pass and looks at keys, signatures and policies from then on.
    #[test]
    fn keys_are_looked_at_and_may_be_those_of_somebody_who_may_not_list_buckets() {
        let port = Port::reserve();
        let server = Server::start(
            &format!(
                "INITIAL_NO_AUTH_ACTION_COUNT=3 {} {} {port} first",
                installed("venv/bin/python").display(),
                source("clients/python/s3_server.py").display()
            ),
            port,
        );
        let (endpoint, bucket) = (server.endpoint(), new_name());
        let script = "iam = client('iam')\niam.create_user(UserName='operator')\n\
                      statement = lambda effect, action: {'Effect': effect, 'Action': action, 'Resource': '*'}\n\
                      iam.put_user_policy(UserName='operator', PolicyName='s3', PolicyDocument=json.dumps(\n  \
                      {'Version': '2012-10-17', 'Statement': [statement('Allow', 's3:*'),\n  \
                      statement('Deny', 's3:ListAllMyBuckets')]}))\n\
                      key = iam.create_access_key(UserName='operator')['AccessKey']\n\
                      print(key['AccessKeyId'], key['SecretAccessKey'])";
        let keys = python(&endpoint, script, &[]);
        let [id, secret] = keys.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{keys}") };
        let with_keys = |id: &str, secret: &str| {
            let mut command = on(&endpoint, &bucket, &[]);
            command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
            command
        };
        let said = refusal(with_keys("AKIAUNKNOWNUNKNOWN00", "wrong"));
        assert!(said.contains("InvalidAccessKeyId"), "{said}");
        let said = refusal(with_keys(id, "wrong"));
        assert!(said.contains("SignatureDoesNotMatch"), "{said}");

        let said = run(&mut with_keys(id, secret));
        assert!(said.contains("created (us-east-1)") && said.contains("cluster: added"), "{said}");
        let said = run(&mut with_keys(id, secret));
        assert!(said.contains("did not say whose it is (AccessDenied"), "{said}");
        assert!(said.contains("cluster: was there") && said.contains("exactly one winner"), "{said}");
    }

    #[test]
    fn a_store_that_does_not_answer_is_named() {
        let said = refusal(on(
            &format!("http://127.0.0.1:{}", Port::reserve()),
            "bucket",
            &["--store-data-retries", "0"],
        ));
        assert!(said.contains("bucket") && said.to_lowercase().contains("connect"), "{said}");
    }
}
