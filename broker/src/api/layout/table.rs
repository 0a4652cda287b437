//! The layouts of the messages of Kafka's clients, by API key.
//!
//! ```text
//!   NAME:KIND [@VERSIONS] [#TAG], with spaces in between
//!
//!   KIND      bool i8 i16 i32 i64 f64 uuid, str, bytes
//!             [KIND]     an array
//!             {FIELDS}   a struct        ?{FIELDS}  one that may be absent, with a byte in front
//!   VERSIONS  3+  from 3 on    0-2  from 0 to 2    3  only 3; without: all
//!   TAG       it stands among the tagged fields (KIP-482), under this number
//! ```
//!
//! In which versions the encoding is compact ("flexible") follows from the API (`ApiKey::request_header_version`).
//! Names are for readers. Source: Kafka's `clients/src/main/resources/common/message/*.json`, in the versions that the
//! codec knows; that both agree is tested for each.
//!
//! APIs that the broker does not serve may have a row: it is then ready.

use kafka_protocol::messages::ApiKey;

pub(super) struct Row {
    pub api: ApiKey,
    pub request: &'static str,
    pub response: &'static str,
}

/// In the order of the keys.
pub(super) static ROWS: &[Row] = &[
    Row {
        api: ApiKey::Produce,
        request: "transactional_id:str acks:i16 timeout_ms:i32 topic_data:[{name:str@0-12 topic_id:uuid@13+ \
            partition_data:[{index:i32 records:bytes}]}]",
        response: "responses:[{name:str@0-12 topic_id:uuid@13+ partition_responses:[{index:i32 error_code:i16 \
            base_offset:i64 log_append_time_ms:i64 log_start_offset:i64@5+ record_errors:[{batch_index:i32@8+ \
            batch_index_error_message:str@8+}]@8+ error_message:str@8+ current_leader:{leader_id:i32@10+ \
            leader_epoch:i32@10+}@10+#0}]}] throttle_time_ms:i32 node_endpoints:[{node_id:i32@10+ host:str@10+ \
            port:i32@10+ rack:str@10+}]@10+#0",
    },
    Row {
        api: ApiKey::Fetch,
        request: "replica_id:i32@0-14 max_wait_ms:i32 min_bytes:i32 max_bytes:i32 isolation_level:i8 session_id:i32@7+ \
            session_epoch:i32@7+ topics:[{topic:str@0-12 topic_id:uuid@13+ partitions:[{partition:i32 \
            current_leader_epoch:i32@9+ fetch_offset:i64 last_fetched_epoch:i32@12+ log_start_offset:i64@5+ \
            partition_max_bytes:i32 replica_directory_id:uuid@17+#0 high_watermark:i64@18+#1}]}] \
            forgotten_topics_data:[{topic:str@7-12 topic_id:uuid@13+ partitions:[i32]@7+}]@7+ rack_id:str@11+ \
            cluster_id:str#0 replica_state:{replica_id:i32@15+ replica_epoch:i64@15+}@15+#1",
        response: "throttle_time_ms:i32 error_code:i16@7+ session_id:i32@7+ responses:[{topic:str@0-12 \
            topic_id:uuid@13+ partitions:[{partition_index:i32 error_code:i16 high_watermark:i64 \
            last_stable_offset:i64 log_start_offset:i64@5+ aborted_transactions:[{producer_id:i64 \
            first_offset:i64}] preferred_read_replica:i32@11+ records:bytes diverging_epoch:{epoch:i32@12+ \
            end_offset:i64@12+}#0 current_leader:{leader_id:i32@12+ leader_epoch:i32@12+}#1 \
            snapshot_id:{end_offset:i64 epoch:i32}#2}]}] node_endpoints:[{node_id:i32@16+ host:str@16+ \
            port:i32@16+ rack:str@16+}]@16+#0",
    },
    Row {
        api: ApiKey::ListOffsets,
        request: "replica_id:i32 isolation_level:i8@2+ topics:[{name:str partitions:[{partition_index:i32 \
            current_leader_epoch:i32@4+ timestamp:i64}]}] timeout_ms:i32@10+",
        response: "throttle_time_ms:i32@2+ topics:[{name:str partitions:[{partition_index:i32 error_code:i16 \
            timestamp:i64 offset:i64 leader_epoch:i32@4+}]}]",
    },
    Row {
        api: ApiKey::Metadata,
        request: "topics:[{topic_id:uuid@10+ name:str}] allow_auto_topic_creation:bool@4+ \
            include_cluster_authorized_operations:bool@8-10 include_topic_authorized_operations:bool@8+",
        response: "throttle_time_ms:i32@3+ brokers:[{node_id:i32 host:str port:i32 rack:str@1+}] cluster_id:str@2+ \
            controller_id:i32@1+ topics:[{error_code:i16 name:str topic_id:uuid@10+ is_internal:bool@1+ \
            partitions:[{error_code:i16 partition_index:i32 leader_id:i32 leader_epoch:i32@7+ \
            replica_nodes:[i32] isr_nodes:[i32] offline_replicas:[i32]@5+}] topic_authorized_operations:i32@8+}] \
            cluster_authorized_operations:i32@8-10 error_code:i16@13+",
    },
    Row {
        api: ApiKey::OffsetCommit,
        request: "group_id:str generation_id_or_member_epoch:i32 member_id:str group_instance_id:str@7+ \
            retention_time_ms:i64@0-4 topics:[{name:str partitions:[{partition_index:i32 committed_offset:i64 \
            committed_leader_epoch:i32@6+ committed_metadata:str}]}]",
        response: "throttle_time_ms:i32@3+ topics:[{name:str@0-9 topic_id:uuid@10+ partitions:[{partition_index:i32 \
            error_code:i16}]}]",
    },
    Row {
        api: ApiKey::OffsetFetch,
        request: "group_id:str@0-7 topics:[{name:str@0-7 partition_indexes:[i32]@0-7}]@0-7 groups:[{group_id:str@8+ \
            member_id:str@9+ member_epoch:i32@9+ topics:[{name:str@8+ partition_indexes:[i32]@8+}]@8+}]@8+ \
            require_stable:bool@7+",
        response: "throttle_time_ms:i32@3+ topics:[{name:str@0-7 partitions:[{partition_index:i32@0-7 \
            committed_offset:i64@0-7 committed_leader_epoch:i32@5-7 metadata:str@0-7 \
            error_code:i16@0-7}]@0-7}]@0-7 error_code:i16@2-7 groups:[{group_id:str@8+ topics:[{name:str@8-9 \
            topic_id:uuid@10+ partitions:[{partition_index:i32@8+ committed_offset:i64@8+ \
            committed_leader_epoch:i32@8+ metadata:str@8+ error_code:i16@8+}]@8+}]@8+ error_code:i16@8+}]@8+",
    },
    Row {
        api: ApiKey::FindCoordinator,
        request: "key:str@0-3 key_type:i8@1+ coordinator_keys:[str]@4+",
        response: "throttle_time_ms:i32@1+ error_code:i16@0-3 error_message:str@1-3 node_id:i32@0-3 host:str@0-3 \
            port:i32@0-3 coordinators:[{key:str@4+ node_id:i32@4+ host:str@4+ port:i32@4+ error_code:i16@4+ \
            error_message:str@4+}]@4+",
    },
    Row {
        api: ApiKey::JoinGroup,
        request: "group_id:str session_timeout_ms:i32 rebalance_timeout_ms:i32@1+ member_id:str \
            group_instance_id:str@5+ protocol_type:str protocols:[{name:str metadata:bytes}] reason:str@8+",
        response: "throttle_time_ms:i32@2+ error_code:i16 generation_id:i32 protocol_type:str@7+ protocol_name:str \
            leader:str skip_assignment:bool@9+ member_id:str members:[{member_id:str group_instance_id:str@5+ \
            metadata:bytes}]",
    },
    Row {
        api: ApiKey::Heartbeat,
        request: "group_id:str generation_id:i32 member_id:str group_instance_id:str@3+",
        response: "throttle_time_ms:i32@1+ error_code:i16",
    },
    Row {
        api: ApiKey::LeaveGroup,
        request: "group_id:str member_id:str@0-2 members:[{member_id:str@3+ group_instance_id:str@3+ \
            reason:str@5+}]@3+",
        response: "throttle_time_ms:i32@1+ error_code:i16 members:[{member_id:str@3+ group_instance_id:str@3+ \
            error_code:i16@3+}]@3+",
    },
    Row {
        api: ApiKey::SyncGroup,
        request: "group_id:str generation_id:i32 member_id:str group_instance_id:str@3+ protocol_type:str@5+ \
            protocol_name:str@5+ assignments:[{member_id:str assignment:bytes}]",
        response: "throttle_time_ms:i32@1+ error_code:i16 protocol_type:str@5+ protocol_name:str@5+ assignment:bytes",
    },
    Row {
        api: ApiKey::DescribeGroups,
        request: "groups:[str] include_authorized_operations:bool@3+",
        response: "throttle_time_ms:i32@1+ groups:[{error_code:i16 error_message:str@6+ group_id:str group_state:str \
            protocol_type:str protocol_data:str members:[{member_id:str group_instance_id:str@4+ client_id:str \
            client_host:str member_metadata:bytes member_assignment:bytes}] authorized_operations:i32@3+}]",
    },
    Row {
        api: ApiKey::ListGroups,
        request: "states_filter:[str]@4+ types_filter:[str]@5+",
        response: "throttle_time_ms:i32@1+ error_code:i16 groups:[{group_id:str protocol_type:str group_state:str@4+ \
            group_type:str@5+}]",
    },
    Row { api: ApiKey::SaslHandshake, request: "mechanism:str", response: "error_code:i16 mechanisms:[str]" },
    Row {
        api: ApiKey::ApiVersions,
        request: "client_software_name:str@3+ client_software_version:str@3+",
        response: "error_code:i16 api_keys:[{api_key:i16 min_version:i16 max_version:i16}] throttle_time_ms:i32@1+ \
            supported_features:[{name:str@3+ min_version:i16@3+ max_version:i16@3+}]#0 \
            finalized_features_epoch:i64#1 finalized_features:[{name:str@3+ max_version_level:i16@3+ \
            min_version_level:i16@3+}]#2 zk_migration_ready:bool#3",
    },
    Row {
        api: ApiKey::CreateTopics,
        request: "topics:[{name:str num_partitions:i32 replication_factor:i16 assignments:[{partition_index:i32 \
            broker_ids:[i32]}] configs:[{name:str value:str}]}] timeout_ms:i32 validate_only:bool",
        response: "throttle_time_ms:i32 topics:[{name:str topic_id:uuid@7+ error_code:i16 error_message:str \
            num_partitions:i32@5+ replication_factor:i16@5+ configs:[{name:str@5+ value:str@5+ read_only:bool@5+ \
            config_source:i8@5+ is_sensitive:bool@5+}]@5+ topic_config_error_code:i16#0}]",
    },
    Row {
        api: ApiKey::DeleteTopics,
        request: "topics:[{name:str@6+ topic_id:uuid@6+}]@6+ topic_names:[str]@0-5 timeout_ms:i32",
        response: "throttle_time_ms:i32 responses:[{name:str topic_id:uuid@6+ error_code:i16 error_message:str@5+}]",
    },
    Row {
        api: ApiKey::DeleteRecords,
        request: "topics:[{name:str partitions:[{partition_index:i32 offset:i64}]}] timeout_ms:i32",
        response: "throttle_time_ms:i32 topics:[{name:str partitions:[{partition_index:i32 low_watermark:i64 \
            error_code:i16}]}]",
    },
    Row {
        api: ApiKey::InitProducerId,
        request: "transactional_id:str transaction_timeout_ms:i32 producer_id:i64@3+ producer_epoch:i16@3+",
        response: "throttle_time_ms:i32 error_code:i16 producer_id:i64 producer_epoch:i16 \
            ongoing_txn_producer_id:i64@6+ ongoing_txn_producer_epoch:i16@6+",
    },
    Row {
        api: ApiKey::OffsetForLeaderEpoch,
        request: "replica_id:i32@3+ topics:[{topic:str partitions:[{partition:i32 current_leader_epoch:i32 \
            leader_epoch:i32}]}]",
        response: "throttle_time_ms:i32 topics:[{topic:str partitions:[{error_code:i16 partition:i32 leader_epoch:i32 \
            end_offset:i64}]}]",
    },
    Row {
        api: ApiKey::AddPartitionsToTxn,
        request: "transactions:[{transactional_id:str@4+ producer_id:i64@4+ producer_epoch:i16@4+ verify_only:bool@4+ \
            topics:[{name:str partitions:[i32]}]@4+}]@4+ v3_and_below_transactional_id:str@0-3 \
            v3_and_below_producer_id:i64@0-3 v3_and_below_producer_epoch:i16@0-3 v3_and_below_topics:[{name:str \
            partitions:[i32]}]@0-3",
        response: "throttle_time_ms:i32 error_code:i16@4+ results_by_transaction:[{transactional_id:str@4+ \
            topic_results:[{name:str results_by_partition:[{partition_index:i32 \
            partition_error_code:i16}]}]@4+}]@4+ results_by_topic_v3_and_below:[{name:str \
            results_by_partition:[{partition_index:i32 partition_error_code:i16}]}]@0-3",
    },
    Row {
        api: ApiKey::AddOffsetsToTxn,
        request: "transactional_id:str producer_id:i64 producer_epoch:i16 group_id:str",
        response: "throttle_time_ms:i32 error_code:i16",
    },
    Row {
        api: ApiKey::EndTxn,
        request: "transactional_id:str producer_id:i64 producer_epoch:i16 committed:bool",
        response: "throttle_time_ms:i32 error_code:i16 producer_id:i64@5+ producer_epoch:i16@5+",
    },
    Row {
        api: ApiKey::WriteTxnMarkers,
        request: "markers:[{producer_id:i64 producer_epoch:i16 transaction_result:bool topics:[{name:str \
            partition_indexes:[i32]}] coordinator_epoch:i32}]",
        response: "markers:[{producer_id:i64 topics:[{name:str partitions:[{partition_index:i32 error_code:i16}]}]}]",
    },
    Row {
        api: ApiKey::TxnOffsetCommit,
        request: "transactional_id:str group_id:str producer_id:i64 producer_epoch:i16 generation_id:i32@3+ \
            member_id:str@3+ group_instance_id:str@3+ topics:[{name:str partitions:[{partition_index:i32 \
            committed_offset:i64 committed_leader_epoch:i32@2+ committed_metadata:str}]}]",
        response: "throttle_time_ms:i32 topics:[{name:str partitions:[{partition_index:i32 error_code:i16}]}]",
    },
    Row {
        api: ApiKey::DescribeAcls,
        request: "resource_type_filter:i8 resource_name_filter:str pattern_type_filter:i8 principal_filter:str \
            host_filter:str operation:i8 permission_type:i8",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str resources:[{resource_type:i8 resource_name:str \
            pattern_type:i8 acls:[{principal:str host:str operation:i8 permission_type:i8}]}]",
    },
    Row {
        api: ApiKey::CreateAcls,
        request: "creations:[{resource_type:i8 resource_name:str resource_pattern_type:i8 principal:str host:str \
            operation:i8 permission_type:i8}]",
        response: "throttle_time_ms:i32 results:[{error_code:i16 error_message:str}]",
    },
    Row {
        api: ApiKey::DeleteAcls,
        request: "filters:[{resource_type_filter:i8 resource_name_filter:str pattern_type_filter:i8 \
            principal_filter:str host_filter:str operation:i8 permission_type:i8}]",
        response: "throttle_time_ms:i32 filter_results:[{error_code:i16 error_message:str \
            matching_acls:[{error_code:i16 error_message:str resource_type:i8 resource_name:str pattern_type:i8 \
            principal:str host:str operation:i8 permission_type:i8}]}]",
    },
    Row {
        api: ApiKey::DescribeConfigs,
        request: "resources:[{resource_type:i8 resource_name:str configuration_keys:[str]}] include_synonyms:bool \
            include_documentation:bool@3+",
        response: "throttle_time_ms:i32 results:[{error_code:i16 error_message:str resource_type:i8 resource_name:str \
            configs:[{name:str value:str read_only:bool config_source:i8 is_sensitive:bool synonyms:[{name:str \
            value:str source:i8}] config_type:i8@3+ documentation:str@3+}]}]",
    },
    Row {
        api: ApiKey::AlterConfigs,
        request: "resources:[{resource_type:i8 resource_name:str configs:[{name:str value:str}]}] validate_only:bool",
        response: "throttle_time_ms:i32 responses:[{error_code:i16 error_message:str resource_type:i8 \
            resource_name:str}]",
    },
    Row {
        api: ApiKey::AlterReplicaLogDirs,
        request: "dirs:[{path:str topics:[{name:str partitions:[i32]}]}]",
        response: "throttle_time_ms:i32 results:[{topic_name:str partitions:[{partition_index:i32 error_code:i16}]}]",
    },
    Row {
        api: ApiKey::DescribeLogDirs,
        request: "topics:[{topic:str partitions:[i32]}]",
        response: "throttle_time_ms:i32 error_code:i16@3+ results:[{error_code:i16 log_dir:str topics:[{name:str \
            partitions:[{partition_index:i32 partition_size:i64 offset_lag:i64 is_future_key:bool}]}] \
            total_bytes:i64@4+ usable_bytes:i64@4+}]",
    },
    Row {
        api: ApiKey::SaslAuthenticate,
        request: "auth_bytes:bytes",
        response: "error_code:i16 error_message:str auth_bytes:bytes session_lifetime_ms:i64@1+",
    },
    Row {
        api: ApiKey::CreatePartitions,
        request: "topics:[{name:str count:i32 assignments:[{broker_ids:[i32]}]}] timeout_ms:i32 validate_only:bool",
        response: "throttle_time_ms:i32 results:[{name:str error_code:i16 error_message:str}]",
    },
    Row {
        api: ApiKey::DeleteGroups,
        request: "groups_names:[str]",
        response: "throttle_time_ms:i32 results:[{group_id:str error_code:i16}]",
    },
    Row {
        api: ApiKey::ElectLeaders,
        request: "election_type:i8@1+ topic_partitions:[{topic:str partitions:[i32]}] timeout_ms:i32",
        response: "throttle_time_ms:i32 error_code:i16@1+ replica_election_results:[{topic:str \
            partition_result:[{partition_id:i32 error_code:i16 error_message:str}]}]",
    },
    Row {
        api: ApiKey::IncrementalAlterConfigs,
        request: "resources:[{resource_type:i8 resource_name:str configs:[{name:str config_operation:i8 value:str}]}] \
            validate_only:bool",
        response: "throttle_time_ms:i32 responses:[{error_code:i16 error_message:str resource_type:i8 \
            resource_name:str}]",
    },
    Row {
        api: ApiKey::AlterPartitionReassignments,
        request: "timeout_ms:i32 allow_replication_factor_change:bool@1+ topics:[{name:str \
            partitions:[{partition_index:i32 replicas:[i32]}]}]",
        response: "throttle_time_ms:i32 allow_replication_factor_change:bool@1+ error_code:i16 error_message:str \
            responses:[{name:str partitions:[{partition_index:i32 error_code:i16 error_message:str}]}]",
    },
    Row {
        api: ApiKey::ListPartitionReassignments,
        request: "timeout_ms:i32 topics:[{name:str partition_indexes:[i32]}]",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str topics:[{name:str \
            partitions:[{partition_index:i32 replicas:[i32] adding_replicas:[i32] removing_replicas:[i32]}]}]",
    },
    Row {
        api: ApiKey::OffsetDelete,
        request: "group_id:str topics:[{name:str partitions:[{partition_index:i32}]}]",
        response: "error_code:i16 throttle_time_ms:i32 topics:[{name:str partitions:[{partition_index:i32 \
            error_code:i16}]}]",
    },
    Row {
        api: ApiKey::DescribeClientQuotas,
        request: "components:[{entity_type:str match_type:i8 _match:str}] strict:bool",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str entries:[{entity:[{entity_type:str \
            entity_name:str}] values:[{key:str value:f64}]}]",
    },
    Row {
        api: ApiKey::AlterClientQuotas,
        request: "entries:[{entity:[{entity_type:str entity_name:str}] ops:[{key:str value:f64 remove:bool}]}] \
            validate_only:bool",
        response: "throttle_time_ms:i32 entries:[{error_code:i16 error_message:str entity:[{entity_type:str \
            entity_name:str}]}]",
    },
    Row {
        api: ApiKey::DescribeUserScramCredentials,
        request: "users:[{name:str}]",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str results:[{user:str error_code:i16 \
            error_message:str credential_infos:[{mechanism:i8 iterations:i32}]}]",
    },
    Row {
        api: ApiKey::AlterUserScramCredentials,
        request: "deletions:[{name:str mechanism:i8}] upsertions:[{name:str mechanism:i8 iterations:i32 salt:bytes \
            salted_password:bytes}]",
        response: "throttle_time_ms:i32 results:[{user:str error_code:i16 error_message:str}]",
    },
    Row {
        api: ApiKey::UpdateFeatures,
        request: "timeout_ms:i32 feature_updates:[{feature:str max_version_level:i16 allow_downgrade:bool@0 \
            upgrade_type:i8@1+}] validate_only:bool@1+",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str results:[{feature:str error_code:i16 \
            error_message:str}]@0-1",
    },
    Row {
        api: ApiKey::DescribeCluster,
        request: "include_cluster_authorized_operations:bool endpoint_type:i8@1+ include_fenced_brokers:bool@2+",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str endpoint_type:i8@1+ cluster_id:str \
            controller_id:i32 brokers:[{broker_id:i32 host:str port:i32 rack:str is_fenced:bool@2+}] \
            cluster_authorized_operations:i32",
    },
    Row {
        api: ApiKey::DescribeProducers,
        request: "topics:[{name:str partition_indexes:[i32]}]",
        response: "throttle_time_ms:i32 topics:[{name:str partitions:[{partition_index:i32 error_code:i16 \
            error_message:str active_producers:[{producer_id:i64 producer_epoch:i32 last_sequence:i32 \
            last_timestamp:i64 coordinator_epoch:i32 current_txn_start_offset:i64}]}]}]",
    },
    Row {
        api: ApiKey::DescribeTransactions,
        request: "transactional_ids:[str]",
        response: "throttle_time_ms:i32 transaction_states:[{error_code:i16 transactional_id:str transaction_state:str \
            transaction_timeout_ms:i32 transaction_start_time_ms:i64 producer_id:i64 producer_epoch:i16 \
            topics:[{topic:str partitions:[i32]}]}]",
    },
    Row {
        api: ApiKey::ListTransactions,
        request: "state_filters:[str] producer_id_filters:[i64] duration_filter:i64@1+ transactional_id_pattern:str@2+",
        response: "throttle_time_ms:i32 error_code:i16 unknown_state_filters:[str] \
            transaction_states:[{transactional_id:str producer_id:i64 transaction_state:str}]",
    },
    Row {
        api: ApiKey::ConsumerGroupHeartbeat,
        request: "group_id:str member_id:str member_epoch:i32 instance_id:str rack_id:str rebalance_timeout_ms:i32 \
            subscribed_topic_names:[str] subscribed_topic_regex:str@1+ server_assignor:str \
            topic_partitions:[{topic_id:uuid partitions:[i32]}]",
        response: "throttle_time_ms:i32 error_code:i16 error_message:str member_id:str member_epoch:i32 \
            heartbeat_interval_ms:i32 assignment:?{topic_partitions:[{topic_id:uuid partitions:[i32]}]}",
    },
    Row {
        api: ApiKey::ConsumerGroupDescribe,
        request: "group_ids:[str] include_authorized_operations:bool",
        response: "throttle_time_ms:i32 groups:[{error_code:i16 error_message:str group_id:str group_state:str \
            group_epoch:i32 assignment_epoch:i32 assignor_name:str members:[{member_id:str instance_id:str \
            rack_id:str member_epoch:i32 client_id:str client_host:str subscribed_topic_names:[str] \
            subscribed_topic_regex:str assignment:{topic_partitions:[{topic_id:uuid topic_name:str \
            partitions:[i32]}]} target_assignment:{topic_partitions:[{topic_id:uuid topic_name:str \
            partitions:[i32]}]} member_type:i8@1+}] authorized_operations:i32}]",
    },
    Row {
        api: ApiKey::ListConfigResources,
        request: "resource_types:[i8]@1+",
        response: "throttle_time_ms:i32 error_code:i16 config_resources:[{resource_name:str resource_type:i8@1+}]",
    },
    Row {
        api: ApiKey::DescribeTopicPartitions,
        request: "topics:[{name:str}] response_partition_limit:i32 cursor:?{topic_name:str partition_index:i32}",
        response: "throttle_time_ms:i32 topics:[{error_code:i16 name:str topic_id:uuid is_internal:bool \
            partitions:[{error_code:i16 partition_index:i32 leader_id:i32 leader_epoch:i32 replica_nodes:[i32] \
            isr_nodes:[i32] eligible_leader_replicas:[i32] last_known_elr:[i32] offline_replicas:[i32]}] \
            topic_authorized_operations:i32}] next_cursor:?{topic_name:str partition_index:i32}",
    },
];
