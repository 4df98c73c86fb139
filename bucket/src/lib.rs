//! Sets up the bucket of an S3-compatible store: creates it where it is absent, lets browsers read from it (CORS), and lets the store
//! delete by itself what the server did not (lifecycle). Everything else of Ghost Live reaches a store through `object_store`, which has
//! none of this.

#![forbid(unsafe_code)]

use std::fmt;

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::{
        AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
        CorsConfiguration, CorsRule, CreateBucketConfiguration, ExpirationStatus,
        LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
    },
};

/// Where the bucket is.
#[derive(Clone)]
pub struct Bucket {
    /// Address of the server; `None` for AWS.
    pub endpoint: Option<String>,
    /// Region; `auto` for R2.
    pub region: String,
    /// Name.
    pub name: String,
    /// Whether it is named in the path and not in the host name.
    pub path_style: bool,
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Bucket({} at {})",
            self.name,
            self.endpoint.as_deref().unwrap_or("AWS")
        )
    }
}

/// Why a bucket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The server said no, or nothing.
    #[error("{what} the bucket {bucket}: {reason}")]
    Server {
        /// What was tried.
        what: &'static str,
        /// On which bucket.
        bucket: String,
        /// The server's words.
        reason: String,
    },
    /// A rule that the SDK does not take.
    #[error("a rule of the bucket could not be made: {0}")]
    Rule(String),
}

/// What was done, or could not be done because the server has no such thing; each a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Done.
    Done(String),
    /// The server does not have it.
    NotThere(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(text) => write!(f, "done: {text}"),
            Self::NotThere(text) => write!(f, "not there: {text}"),
        }
    }
}

impl Bucket {
    fn client(&self) -> Client {
        let credentials = Credentials::new(
            &self.access_key_id,
            &self.secret_access_key,
            None,
            None,
            "ghost-live.toml",
        );
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(self.path_style);
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }

    fn failed<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        what: &'static str,
        error: &SdkError<E>,
    ) -> BucketError {
        let reason = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => DisplayErrorContext(error).to_string(),
        };
        BucketError::Server {
            what,
            bucket: self.name.clone(),
            reason,
        }
    }

    /// Creates the bucket if it is absent, and sets its rules. Objects expire after `expire_days` (at least one day), or
    /// never.
    ///
    /// # Errors
    /// [`BucketError`] when the server refuses, or does not answer. A server that has no CORS or lifecycle rules is no error.
    pub async fn init(&self, expire_days: Option<u32>) -> Result<Vec<Step>, BucketError> {
        let client = self.client();
        let mut steps = vec![self.create(&client).await?];
        let cors = client
            .put_bucket_cors()
            .bucket(&self.name)
            .cors_configuration(cors()?)
            .send()
            .await;
        steps.push(match cors {
            Ok(_) => Step::Done("browsers of every origin may read (CORS)".into()),
            Err(error) if is_missing(&error) => {
                Step::NotThere("this server has no CORS rules: serve media through the edge".into())
            }
            Err(error) => return Err(self.failed("setting the CORS rules of", &error)),
        });
        let days = expire_days.map(|days| days.max(1));
        let put = client
            .put_bucket_lifecycle_configuration()
            .bucket(&self.name);
        let lifecycle = put.lifecycle_configuration(lifecycle(days)?).send().await;
        steps.push(match lifecycle {
            Ok(_) => Step::Done(match days {
                Some(days) => format!("objects expire after {days} days, unfinished uploads after one"),
                None => "objects never expire, unfinished uploads after a day".into(),
            }),
            Err(error) if is_missing(&error) => {
                Step::NotThere("this server has no lifecycle rules: what a crash leaves behind is swept at the next start".into())
            }
            Err(error) => return Err(self.failed("setting the lifecycle rules of", &error)),
        });
        Ok(steps)
    }

    async fn create(&self, client: &Client) -> Result<Step, BucketError> {
        match client.head_bucket().bucket(&self.name).send().await {
            Ok(_) => return Ok(Step::Done(format!("the bucket {} is there", self.name))),
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|response| response.status().as_u16() == 404) => {}
            Err(error) => return Err(self.failed("looking for", &error)),
        }
        let mut create = client.create_bucket().bucket(&self.name);
        // AWS wants no constraint for its first region, and R2 has one region only.
        if self.endpoint.is_none() && self.region != "us-east-1" {
            let constraint = BucketLocationConstraint::from(self.region.as_str());
            create = create.create_bucket_configuration(
                CreateBucketConfiguration::builder()
                    .location_constraint(constraint)
                    .build(),
            );
        }
        create
            .send()
            .await
            .map_err(|error| self.failed("creating", &error))?;
        Ok(Step::Done(format!("the bucket {} was created", self.name)))
    }
}

/// Whether the server does not know the request at all.
fn is_missing<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    matches!(status, Some(405 | 501))
        || matches!(error.code(), Some("NotImplemented" | "MethodNotAllowed"))
}

fn cors() -> Result<CorsConfiguration, BucketError> {
    let rule = CorsRule::builder()
        .allowed_origins("*")
        .set_allowed_methods(Some(vec!["GET".into(), "HEAD".into()]))
        .allowed_headers("*")
        .set_expose_headers(Some(vec![
            "ETag".into(),
            "Content-Length".into(),
            "Content-Range".into(),
        ]))
        .max_age_seconds(86_400)
        .build()
        .map_err(|error| BucketError::Rule(error.to_string()))?;
    CorsConfiguration::builder()
        .cors_rules(rule)
        .build()
        .map_err(|error| BucketError::Rule(error.to_string()))
}

fn lifecycle(days: Option<u32>) -> Result<BucketLifecycleConfiguration, BucketError> {
    let expiration = days.map(|days| {
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        LifecycleExpiration::builder().days(days).build()
    });
    let rule = LifecycleRule::builder()
        .id("ghost-live")
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .status(ExpirationStatus::Enabled)
        .set_expiration(expiration)
        .abort_incomplete_multipart_upload(
            AbortIncompleteMultipartUpload::builder()
                .days_after_initiation(1)
                .build(),
        )
        .build()
        .map_err(|error| BucketError::Rule(error.to_string()))?;
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build();
    rules.map_err(|error| BucketError::Rule(error.to_string()))
}
