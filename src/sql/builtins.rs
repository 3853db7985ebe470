//! The built-in functions of PostgreSQL 14 to 18 by name: which may run on a replica, and what the others do.
//!
//! [`Group::Safe`] holds what the catalogue calls immutable or stable, and the volatile functions whose only fault is
//! that they answer anew each time (`random`, `clock_timestamp`). Not safe, though the catalogue calls them stable:
//! functions that assign transaction ids, that answer for one server or session, or that run SQL given as a string.
//! Functions that only implement operators, types, casts of other languages or aggregates are left out, so they count
//! as unknown. A name that is newer than the server is the user's own, so newer ones carry their version.
//! `tests/builtins.rs` holds this table against the catalogue of a real server.
//!
//! Knows names only: no schemas, no arguments. A name is safe if all its variants are.

use super::effects::Effects;
use super::facts::Reason;
use super::words::{self, Index};

/// The oldest major version that the tables know.
pub(super) const OLDEST_VERSION: u16 = 14;

/// What is known of a built-in function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Group {
    Safe,
    Safe15,
    Safe16,
    Safe17,
    Safe18,
    /// `current_setting`: safe unless it asks for something that differs between servers.
    CurrentSetting,
    /// Writes, or acts on the server.
    Volatile,
    /// Leaves something in the session that no other group names.
    SessionState,
    SequenceUse,
    SequenceState,
    AdvisoryLock,
    AdvisoryUnlock,
    AdvisoryXactLock,
    LargeObject,
    TransactionId,
    /// Answers for this server or session.
    ServerLocal,
    /// Runs SQL that is given as a string.
    SqlInString,
    SetConfig,
    SetSeed,
    /// May make a temporary replication slot.
    ReplicationSlot,
}

impl Group {
    /// The first major version in which such a name is built in; in older ones it is the user's.
    const fn since(self) -> u16 {
        match self {
            Self::Safe15 => 15,
            Self::Safe16 => 16,
            Self::Safe17 => 17,
            Self::Safe18 => 18,
            _ => OLDEST_VERSION,
        }
    }

    /// Why a call is no proved read; `None` for the safe ones.
    pub(super) const fn reason(self) -> Option<Reason> {
        Some(match self {
            Self::Safe | Self::Safe15 | Self::Safe16 | Self::Safe17 | Self::Safe18 => return None,
            Self::CurrentSetting | Self::ServerLocal => Reason::ServerLocal,
            Self::Volatile | Self::SessionState | Self::ReplicationSlot => Reason::VolatileFunction,
            Self::SequenceUse | Self::SequenceState => Reason::SequenceFunction,
            Self::AdvisoryLock | Self::AdvisoryUnlock | Self::AdvisoryXactLock => {
                Reason::AdvisoryLock
            }
            Self::LargeObject => Reason::LargeObject,
            Self::TransactionId => Reason::TransactionId,
            Self::SqlInString => Reason::SqlInString,
            Self::SetConfig | Self::SetSeed => Reason::SessionFunction,
        })
    }

    /// What a call may leave in the session.
    pub(super) const fn effects(self) -> Effects {
        match self {
            Self::Safe
            | Self::Safe15
            | Self::Safe16
            | Self::Safe17
            | Self::Safe18
            | Self::CurrentSetting
            | Self::Volatile
            | Self::AdvisoryXactLock
            | Self::LargeObject
            | Self::TransactionId
            | Self::ServerLocal => Effects::NONE,
            Self::SessionState | Self::SqlInString => Effects::OPAQUE,
            Self::SequenceUse => Effects::SEQUENCE_USED,
            Self::SequenceState => Effects::SEQUENCE_STATE,
            Self::AdvisoryLock => Effects::ADVISORY_LOCK,
            Self::AdvisoryUnlock => Effects::ADVISORY_UNLOCK,
            Self::SetConfig => Effects::SET_CONFIG,
            Self::SetSeed => Effects::SETSEED,
            Self::ReplicationSlot => Effects::TEMP_OBJECT,
        }
    }
}

/// The group of the function `name`, which has been folded to lower case, if a server of this major version has it
/// built in.
pub(super) fn group(name: &[u8], server_version: u16) -> Option<Group> {
    let Some(found) = INDEX.find(words::hash(name), |i| FUNCTIONS[i].0.as_bytes() == name) else {
        // Some two hundred, more with each version.
        return name
            .starts_with(b"pg_stat_get_")
            .then_some(Group::ServerLocal);
    };
    let group = FUNCTIONS[found].1;
    (group.since() <= server_version).then_some(group)
}

/// Is this built-in function known to be safe on a replica?
pub(super) fn is_safe(name: &[u8], server_version: u16) -> bool {
    group(name, server_version).is_some_and(|group| group.reason().is_none())
}

/// Must what reaches this built-in function not run on a replica? `volatile` is what the server's catalogue says, which may
/// have been altered. Unlike a call of something unknown this is asked of functions that only implement operators or types,
/// and of `current_setting`, whose argument is not known: the setting of the client is the same on every server.
pub(super) fn is_unsafe(name: &[u8], volatile: bool, server_version: u16) -> bool {
    match group(name, server_version) {
        Some(Group::CurrentSetting) => volatile,
        Some(group) if group.reason().is_some() => true,
        Some(_) => volatile && !ANSWERS_ANEW.iter().any(|n| n.as_bytes() == name),
        None => volatile,
    }
}

/// The safe functions that are volatile because each call may answer otherwise.
#[rustfmt::skip]
const ANSWERS_ANEW: &[&str] = &[
    "array_sample", "array_shuffle", "clock_timestamp", "current_query", "gen_random_uuid", "pg_database_size",
    "pg_indexes_size", "pg_partition_ancestors", "pg_partition_tree", "pg_relation_size", "pg_sleep", "pg_sleep_for",
    "pg_sleep_until", "pg_table_size", "pg_tablespace_size", "pg_total_relation_size", "random", "random_normal",
    "timeofday", "timezone", "uuidv4", "uuidv7",
];

/// The built-in functions that count as safe on a replica of this major version.
pub fn safe_functions(server_version: u16) -> impl Iterator<Item = &'static str> {
    FUNCTIONS
        .iter()
        .filter(move |(_, group)| group.reason().is_none() && group.since() <= server_version)
        .map(|(name, _)| *name)
}

/// Does this relation of `pg_catalog` answer for one server or session? `name` has been folded to lower case.
pub(super) fn is_server_local_relation(name: &[u8]) -> bool {
    let statistics = name.starts_with(b"pg_stat")
        && !name.starts_with(b"pg_stats")
        && !name.starts_with(b"pg_statistic");
    statistics || LOCAL_RELATIONS.iter().any(|r| r.as_bytes() == name)
}

const LOCAL_RELATIONS: &[&str] = &[
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_config",
    "pg_cursors",
    "pg_dsm_registry_allocations",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// Does this parameter have a value of its own on each server, or depend on whether it is a standby?
pub(super) fn is_server_local_setting(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "all",
        "bonjour_name",
        "cluster_name",
        "config_file",
        "data_directory",
        "event_source",
        "external_pid_file",
        "hba_file",
        "huge_pages_status",
        "ident_file",
        "in_hot_standby",
        "krb_server_keyfile",
        "listen_addresses",
        "port",
        "promote_trigger_file",
        "restore_command",
        "shared_memory_size",
        "synchronous_standby_names",
        "transaction_read_only",
    ];
    const PREFIXES: &[&str] = &[
        "archive_",
        "hot_standby",
        "log_directory",
        "log_filename",
        "max_standby_",
        "num_os_",
        "primary_",
        "recovery_",
        "ssl_",
        "sync_replication_slots",
        "syslog_",
        "unix_socket_",
        "wal_receiver_",
    ];
    NAMES
        .iter()
        .any(|n| n.as_bytes().eq_ignore_ascii_case(name))
        || PREFIXES.iter().any(|p| {
            name.get(..p.len())
                .is_some_and(|n| n.eq_ignore_ascii_case(p.as_bytes()))
        })
}

macro_rules! functions {
    ($($(#[$_doc:meta])* $group:ident { $($name:tt)* })*) => {
        const FUNCTIONS: &[(&str, Group)] = &[$($((stringify!($name), Group::$group),)*)*];
    };
}

static INDEX: Index<4096> = {
    let mut index = Index::EMPTY;
    let mut i = 0;
    while i < FUNCTIONS.len() {
        index = index.with(i, words::hash(FUNCTIONS[i].0.as_bytes()));
        i += 1;
    }
    index
};

functions! {
    /// Arithmetic.
    Safe {
        abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh bit_count cbrt ceil ceiling cos cosd cosh
        cot cotd degrees dexp div dlog1 dlog10 dround dtrunc exp factorial floor gcd lcm ln log log10 min_scale mod
        numeric_exp numeric_ln numeric_log numeric_power numeric_sqrt pi pow power radians random round scale sign
        sin sind sinh sqrt tan tand tanh trim_scale trunc width_bucket
    }
    /// Text and bytes.
    Safe {
        ascii bit_length btrim char_length character_length chr concat concat_ws convert convert_from convert_to
        decode encode format get_bit get_byte initcap is_normalized left length like like_escape lower lpad ltrim md5
        normalize notlike octet_length overlay parse_ident pg_client_encoding position quote_ident quote_literal
        quote_nullable regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table repeat
        replace reverse right rpad rtrim set_bit set_byte sha224 sha256 sha384 sha512 similar_escape
        similar_to_escape split_part starts_with string_to_array string_to_table strpos substr substring textcat
        textlen to_ascii to_hex translate unistr upper
    }
    /// Date and time.
    Safe {
        age clock_timestamp date_bin date_part date_trunc extract isfinite justify_days justify_hours
        justify_interval make_date make_interval make_time make_timestamp make_timestamptz now overlaps
        statement_timestamp timeofday timezone to_char to_date to_number to_timestamp transaction_timestamp
    }
    /// Casts written as calls.
    Safe {
        bit bool box bpchar char cidr circle date float4 float8 int2 int4 int8 interval line lseg macaddr macaddr8
        money name numeric oid path point polygon regclass text time timestamp timestamptz timetz to_regclass
        to_regcollation to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype
        varbit varchar xid xml
    }
    /// Aggregates and window functions.
    Safe {
        array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist dense_rank
        every first_value json_agg json_object_agg jsonb_agg jsonb_object_agg lag last_value lead max min mode
        nth_value ntile percent_rank percentile_cont percentile_disc range_agg range_intersect_agg rank regr_avgx
        regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number stddev
        stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg
    }
    /// Arrays, enums, sets, rows.
    Safe {
        array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position
        array_positions array_prepend array_remove array_replace array_to_string array_to_tsvector array_upper
        cardinality enum_first enum_last enum_range generate_series generate_subscripts num_nonnulls num_nulls
        trim_array unnest
    }
    /// Ranges.
    Safe {
        datemultirange daterange int4multirange int4range int8multirange int8range isempty lower_inc lower_inf
        multirange nummultirange numrange range_merge tsmultirange tsrange tstzmultirange tstzrange upper_inc
        upper_inf
    }
    /// JSON and XML. The SQL/JSON constructors are functions to older servers and syntax to newer ones.
    Safe {
        array_to_json json_array_elements json_array_elements_text json_array_length json_build_array
        json_build_object json_each json_each_text json_extract_path json_extract_path_text json_object
        json_object_keys json_populate_record json_populate_recordset json_strip_nulls json_to_record
        json_to_recordset json_typeof jsonb_array_elements jsonb_array_elements_text jsonb_array_length
        jsonb_build_array jsonb_build_object jsonb_concat jsonb_contains jsonb_each jsonb_each_text jsonb_exists
        jsonb_exists_all jsonb_exists_any jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object
        jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz
        jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first
        jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset jsonb_pretty
        jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json to_json
        to_jsonb xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document xmlcomment xmlexists xpath
        xpath_exists
    }
    /// Full-text search.
    Safe {
        get_current_ts_config json_to_tsvector jsonb_to_tsvector numnode phraseto_tsquery plainto_tsquery querytree
        setweight strip to_tsquery to_tsvector ts_debug ts_delete ts_filter ts_headline ts_lexize ts_parse ts_rank
        ts_rank_cd ts_token_type tsquery_phrase tsvector_to_array websearch_to_tsquery
    }
    /// Geometry and networks.
    Safe {
        abbrev area bound_box broadcast center diagonal diameter family height host hostmask inet_merge
        inet_same_family isclosed ishorizontal isopen isparallel isperp isvertical macaddr8_set7bit masklen netmask
        network npoints pclose popen radius set_masklen slope width
    }
    /// Identifiers and hashes.
    Safe {
        gen_random_uuid hash_array hash_record hashtext hashtextextended
    }
    /// What stands behind operators, where the name is used on its own now and then.
    Safe {
        box_center cash_words circle_center elem_contained_by_multirange elem_contained_by_range float4send
        float8send hash_aclitem hash_aclitem_extended hash_array_extended hash_multirange hash_multirange_extended
        hash_numeric hash_numeric_extended hash_range hash_range_extended hash_record_extended hashbpchar
        hashbpcharextended hashchar hashcharextended hashenum hashenumextended hashfloat4 hashfloat4extended
        hashfloat8 hashfloat8extended hashinet hashinetextended hashint2 hashint2extended hashint4 hashint4extended
        hashint8 hashint8extended hashmacaddr hashmacaddr8 hashmacaddr8extended hashmacaddrextended hashname
        hashnameextended hashoid hashoidextended hashoidvector hashoidvectorextended hashtid hashtidextended
        hashvarlena hashvarlenaextended jsonb_array_element jsonb_array_element_text jsonb_cmp jsonb_contained
        jsonb_delete jsonb_delete_path jsonb_eq jsonb_ge jsonb_gt jsonb_hash jsonb_hash_extended jsonb_le jsonb_lt
        jsonb_ne jsonb_object_field jsonb_object_field_text jsonb_path_exists_opr jsonb_path_match_opr lseg_center
        multirange_adjacent_multirange multirange_adjacent_range multirange_after_multirange multirange_after_range
        multirange_before_multirange multirange_before_range multirange_cmp multirange_contained_by_multirange
        multirange_contained_by_range multirange_contains_elem multirange_contains_multirange
        multirange_contains_range multirange_eq multirange_ge multirange_gt multirange_intersect multirange_le
        multirange_lt multirange_minus multirange_ne multirange_overlaps_multirange multirange_overlaps_range
        multirange_overleft_multirange multirange_overleft_range multirange_overright_multirange
        multirange_overright_range multirange_union poly_center range_adjacent range_adjacent_multirange range_after
        range_after_multirange range_before range_before_multirange range_cmp range_contained_by
        range_contained_by_multirange range_contains range_contains_elem range_contains_multirange range_eq range_ge
        range_gt range_intersect range_le range_lt range_minus range_ne range_overlaps range_overlaps_multirange
        range_overleft range_overleft_multirange range_overright range_overright_multirange range_union
        satisfies_hash_partition
    }
    /// The catalogue, privileges, the session's user.
    Safe {
        aclcontains acldefault aclexplode col_description current_database current_query current_schema
        current_schemas current_user format_type getdatabaseencoding getpgusername has_any_column_privilege
        has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege has_function_privilege
        has_language_privilege has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege
        has_tablespace_privilege has_type_privilege makeaclitem mxid_age obj_description
        pg_available_extension_versions pg_available_extensions pg_char_to_encoding pg_collation_for
        pg_collation_is_visible pg_column_compression pg_column_is_updatable pg_column_size pg_conversion_is_visible
        pg_database_size pg_describe_object pg_encoding_max_length pg_encoding_to_char pg_extension_update_paths
        pg_filenode_relation pg_function_is_visible pg_get_catalog_foreign_keys pg_get_constraintdef pg_get_expr
        pg_get_function_arg_default pg_get_function_arguments pg_get_function_identity_arguments
        pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef pg_get_keywords
        pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef pg_get_publication_tables
        pg_get_replica_identity_index pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
        pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid
        pg_get_viewdef pg_has_role pg_identify_object pg_identify_object_as_address pg_index_column_has_property
        pg_index_has_property pg_indexam_has_property pg_indexes_size pg_lsn pg_mcv_list_items pg_opclass_is_visible
        pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table pg_partition_ancestors pg_partition_root
        pg_partition_tree pg_relation_filenode pg_relation_filepath pg_relation_is_publishable
        pg_relation_is_updatable pg_relation_size pg_sequence_parameters pg_size_bytes pg_size_pretty pg_sleep
        pg_sleep_for pg_sleep_until pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin pg_statistics_obj_is_visible
        pg_table_is_visible pg_table_size pg_tablespace_databases pg_tablespace_location pg_tablespace_size
        pg_timezone_names pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible pg_ts_dict_is_visible
        pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof pg_wal_lsn_diff
        row_security_active session_user shobj_description txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin
        version
    }

    /// New in PostgreSQL 15.
    Safe15 {
        has_parameter_privilege pg_settings_get_flags regexp_count regexp_instr regexp_like regexp_substr
    }
    /// New in PostgreSQL 16.
    Safe16 {
        any_value array_sample array_shuffle date_add date_subtract erf erfc json_agg_strict json_array json_arrayagg
        json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_objectagg jsonb_agg_strict
        jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict pg_input_error_info
        pg_input_is_valid random_normal
    }
    /// New in PostgreSQL 17.
    Safe17 {
        icu_unicode_version json json_exists json_query json_scalar json_serialize json_table json_value pg_basetype
        pg_column_toast_chunk_id to_bin to_oct to_regtypemod unicode_assigned unicode_version uuid_extract_timestamp
        uuid_extract_version xmltext
    }
    /// New in PostgreSQL 18.
    Safe18 {
        array_reverse array_sort bytea casefold crc32 crc32c gamma has_largeobject_privilege lgamma pg_get_acl uuidv4
        uuidv7
    }

    CurrentSetting { current_setting }
    SetConfig { set_config }
    SetSeed { setseed }
    SequenceUse {
        nextval setval
    }
    SequenceState {
        currval lastval
    }
    AdvisoryLock {
        pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
    }
    AdvisoryUnlock {
        pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
    }
    AdvisoryXactLock {
        pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    }
    LargeObject {
        lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import lo_lseek lo_lseek64 lo_open lo_put
        lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink loread lowrite
    }
    TransactionId {
        pg_current_snapshot pg_current_xact_id pg_current_xact_id_if_assigned pg_export_snapshot
        pg_last_committed_xact pg_visible_in_snapshot pg_xact_commit_timestamp pg_xact_commit_timestamp_origin
        pg_xact_status txid_current txid_current_if_assigned txid_current_snapshot txid_status
        txid_visible_in_snapshot
    }
    SqlInString {
        cursor_to_xml cursor_to_xmlschema database_to_xml database_to_xml_and_xmlschema database_to_xmlschema
        query_to_xml query_to_xml_and_xmlschema query_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema
        schema_to_xmlschema table_to_xml table_to_xml_and_xmlschema table_to_xmlschema ts_rewrite ts_stat
    }
    SessionState {
        pg_backup_start pg_backup_stop pg_replication_origin_session_reset pg_replication_origin_session_setup
        pg_replication_origin_xact_reset pg_replication_origin_xact_setup pg_start_backup pg_stop_backup
    }
    ReplicationSlot {
        pg_copy_logical_replication_slot pg_copy_physical_replication_slot pg_create_logical_replication_slot
        pg_create_physical_replication_slot
    }
    Volatile {
        brin_desummarize_range brin_summarize_new_values brin_summarize_range currtid2 gin_clean_pending_list
        pg_cancel_backend pg_clear_attribute_stats pg_clear_relation_stats pg_create_restore_point
        pg_drop_replication_slot pg_extension_config_dump pg_import_system_collations pg_log_backend_memory_contexts
        pg_log_standby_snapshot pg_logical_emit_message pg_logical_slot_get_binary_changes
        pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes pg_nextoid
        pg_notify pg_promote pg_reload_conf pg_replication_origin_advance pg_replication_origin_create
        pg_replication_origin_drop pg_replication_slot_advance pg_restore_attribute_stats pg_restore_relation_stats
        pg_rotate_logfile pg_rotate_logfile_old pg_stat_clear_snapshot pg_stat_force_next_flush pg_stat_reset
        pg_stat_reset_backend_stats pg_stat_reset_replication_slot pg_stat_reset_shared
        pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters pg_stat_reset_slru
        pg_stat_reset_subscription_stats pg_stop_making_pinned_objects pg_switch_wal pg_sync_replication_slots
        pg_terminate_backend pg_wal_replay_pause pg_wal_replay_resume
    }
    ServerLocal {
        inet_client_addr inet_client_port inet_server_addr inet_server_port pg_available_wal_summaries pg_backend_pid
        pg_blocking_pids pg_collation_actual_version pg_conf_load_time pg_config pg_control_checkpoint
        pg_control_init pg_control_recovery pg_control_system pg_current_logfile pg_current_wal_flush_lsn
        pg_current_wal_insert_lsn pg_current_wal_lsn pg_cursor pg_database_collation_actual_version pg_get_aios
        pg_get_backend_memory_contexts pg_get_loaded_modules pg_get_multixact_members pg_get_replication_slots
        pg_get_sequence_data pg_get_shmem_allocations pg_get_shmem_allocations_numa pg_get_wait_events
        pg_get_wal_replay_pause_state pg_get_wal_resource_managers pg_get_wal_summarizer_state pg_hba_file_rules
        pg_ident_file_mappings pg_is_in_backup pg_is_in_recovery pg_is_other_temp_schema pg_is_wal_replay_paused
        pg_isolation_test_session_is_blocked pg_jit_available pg_last_wal_receive_lsn pg_last_wal_replay_lsn
        pg_last_xact_replay_timestamp pg_listening_channels pg_lock_status pg_ls_archive_statusdir pg_ls_dir
        pg_ls_logdir pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir pg_ls_tmpdir
        pg_ls_waldir pg_my_temp_schema pg_notification_queue_usage pg_numa_available pg_postmaster_start_time
        pg_prepared_statement pg_prepared_xact pg_read_binary_file pg_read_file pg_read_file_old
        pg_replication_origin_oid pg_replication_origin_progress pg_replication_origin_session_is_setup
        pg_replication_origin_session_progress pg_safe_snapshot_blocking_pids pg_sequence_last_value
        pg_show_all_file_settings pg_show_all_settings pg_show_replication_origin_status pg_split_walfile_name
        pg_stat_file pg_stat_get_activity pg_stat_get_wal_receiver pg_stat_get_wal_senders pg_stat_have_stats
        pg_wal_summary_contents pg_walfile_name pg_walfile_name_offset
    }
}
