-- column_comments.sql: what the columns mean of the tables and views that people watch.

comment on column evsource.projection_status.projection is 'Name of the projection.';
comment on column evsource.projection_status.mode is 'inline, async or manual.';
comment on column evsource.projection_status.kind is 'event, batch, query or fold.';
comment on column evsource.projection_status.state is 'active, catching_up, paused, failed or rebuilding.';
comment on column evsource.projection_status.stale is 'It has missed events, and must be rebuilt.';
comment on column evsource.projection_status.position is 'The log has been applied up to here.';
comment on column evsource.projection_status.lag is 'Events that it takes and has not applied yet.';
comment on column evsource.projection_status.lag_seconds is 'Age of the oldest of these events.';
comment on column evsource.projection_status.event_count is 'Events applied since its beginning or its last reset.';
comment on column evsource.projection_status.state_version is 'Version of its states or tables, as given by who registered it.';
comment on column evsource.projection_status.owner is 'Role that its code runs as.';
comment on column evsource.projection_status.last_error is 'Message of its last failure.';
comment on column evsource.projection_status.last_error_position is 'Position of the event that failed.';
comment on column evsource.projection_status.last_error_at is 'When that was.';
comment on column evsource.projection_status.conflicts is 'Transactions that were repeated after lock timeouts, deadlocks and serialization failures.';
comment on column evsource.projection_status.worker_pid is 'Worker of the daemon that applies it.';
comment on column evsource.projection_status.heartbeat is 'When that worker last reported.';
comment on column evsource.projection_status.dead_letters is 'Events that were set aside.';
comment on column evsource.projection_status.held_by is 'Other sessions that work on it: a rebuild, a run_projection, a prepared transaction.';

comment on column evsource.progress.projection is 'Name of the projection.';
comment on column evsource.progress.state is 'requested, rebuilding, catching_up or failed.';
comment on column evsource.progress.online is 'A new version is built beside the old one.';
comment on column evsource.progress.events_done is 'Events applied so far.';
comment on column evsource.progress.events_total is 'Events to apply, as counted at the beginning or since; null: not begun.';
comment on column evsource.progress.percent is 'events_done of events_total; null: not begun.';
comment on column evsource.progress.events_per_second is 'Rate since the current session began to work on it.';
comment on column evsource.progress.time_left is 'At that rate; null while it waits.';
comment on column evsource.progress.position is 'The log has been applied up to here.';
comment on column evsource.progress.started_at is 'When it began.';
comment on column evsource.progress.updated_at is 'When it last committed.';
comment on column evsource.progress.last_error is 'Why it stopped, or in another state than failed: what its last attempt failed at, which is made again. The message.';
comment on column evsource.progress.pid is 'Session or worker at work; null when nobody is.';
comment on column evsource.progress.waits_for is 'Sessions whose locks it waits for.';
comment on column evsource.progress.last_error_position is 'Position of the event that it stopped at; null when no single event is at fault.';
comment on column evsource.progress.sqlstate is 'SQLSTATE of the error.';
comment on column evsource.progress.detail is 'Detail of the error.';
comment on column evsource.progress.hint is 'Hint of the error.';
comment on column evsource.progress.context is 'Context of the error.';

comment on column evsource.blockers.pid is 'Session; null for a prepared transaction.';
comment on column evsource.blockers.gid is 'Global identifier of a prepared transaction.';
comment on column evsource.blockers.username is 'Role of the session or of the prepared transaction.';
comment on column evsource.blockers.application_name is 'As in pg_stat_activity.';
comment on column evsource.blockers.state is 'As in pg_stat_activity.';
comment on column evsource.blockers.query is 'As in pg_stat_activity.';
comment on column evsource.blockers.transaction_age is 'Since the transaction began or was prepared.';
comment on column evsource.blockers.first_position is 'Nothing is read at or after this position before the transaction ends.';
comment on column evsource.blockers.events_withheld is 'Committed events at or after that position.';

comment on column evsource.stats.events is 'Events in the log.';
comment on column evsource.stats.streams is 'Streams in the log.';
comment on column evsource.stats.estimated is 'events and streams are estimates from the statistics of VACUUM and ANALYZE.';
comment on column evsource.stats.bytes is 'Size of evsource.events with its indexes, in bytes.';
comment on column evsource.stats.events_per_second is 'Appended lately.';
comment on column evsource.stats.last_position is 'Highest position that has been drawn.';
comment on column evsource.stats.safe_position is 'Readers of the log get events up to here.';
comment on column evsource.stats.in_flight is 'Transactions that have appended and not ended yet.';
comment on column evsource.stats.held_by is 'The one of these that holds safe_position back.';

comment on column evsource.daemon_status.role is 'coordinator or worker.';
comment on column evsource.daemon_status.pid is 'Process.';
comment on column evsource.daemon_status.state is 'Of a worker: applying, rebuilding or idle; of the coordinator: idle or waiting for adopt (pid is null while it needs no process for that).';
comment on column evsource.daemon_status.projection is 'Projection that a worker is at.';
comment on column evsource.daemon_status.partition is 'Its partition, from 0.';
comment on column evsource.daemon_status.since is 'Since when it has been in this state.';
comment on column evsource.daemon_status.heartbeat is 'When it last reported.';

comment on column evsource.subscription_status.subscription is 'Name of the subscription.';
comment on column evsource.subscription_status.owner is 'Role whose rights a consumer needs.';
comment on column evsource.subscription_status.partitions is 'How many consumers can work at once.';
comment on column evsource.subscription_status.position is 'Everything up to here has been acknowledged.';
comment on column evsource.subscription_status.lag is 'Events that it takes and that are not acknowledged yet.';
comment on column evsource.subscription_status.lag_seconds is 'Age of the oldest of these events.';
comment on column evsource.subscription_status.leased is 'Partitions that are out.';
comment on column evsource.subscription_status.consumers is 'Named consumers that have them.';
comment on column evsource.subscription_status.draining is 'Partitions of before a change of their number are not done yet.';
comment on column evsource.subscription_status.dead_letters is 'Events that were set aside.';
comment on column evsource.subscription_status.last_error is 'Reason of the last dead letter.';
comment on column evsource.subscription_status.last_error_position is 'Its position.';
comment on column evsource.subscription_status.last_error_at is 'When it failed.';
comment on column evsource.subscription_status.problem is 'What keeps it from working: cursors that cannot be used (lag is null then), or no owner.';

comment on column evsource.captured_tables.table_name is 'Qualified name of the table.';
comment on column evsource.captured_tables.category is 'Category of its streams.';
comment on column evsource.captured_tables.key_columns is 'Columns that a row''s stream is named by.';
comment on column evsource.captured_tables.exclude_columns is 'Columns that are kept out of events.';
comment on column evsource.captured_tables.captured_by is 'Role with whose rights changes are appended.';
comment on column evsource.captured_tables.enabled is 'The trigger is not disabled.';
comment on column evsource.captured_tables.fires is 'When the trigger does: origin, always, replica, as ALTER TABLE says, or disabled.';

comment on column evsource.snapshot_status.projection is 'Name of the projection.';
comment on column evsource.snapshot_status.state_version is 'Its current state version.';
comment on column evsource.snapshot_status.snapshots is 'Snapshots that are stored.';
comment on column evsource.snapshot_status.outdated is 'Those of another state version.';
comment on column evsource.snapshot_status.rejection is 'Reason for which any was rejected.';
comment on column evsource.snapshot_status.rejection_message is 'The error message, if there was an error.';
comment on column evsource.snapshot_status.rejected_key is 'First key whose snapshot was rejected for this reason.';
comment on column evsource.snapshot_status.rejected_at is 'When that was.';

comment on column evsource.snapshot_stats.projection is 'Name of the fold projection.';
comment on column evsource.snapshot_stats.snapshots is 'Keys with a snapshot.';
comment on column evsource.snapshot_stats.bytes is 'Size of their states as stored, in bytes.';
comment on column evsource.snapshot_stats.last_saved_at is 'When the newest was saved.';
comment on column evsource.snapshot_stats.restores is 'How often a state was loaded from one.';
comment on column evsource.snapshot_stats.rejections is 'How often one could not be used.';

comment on column evsource.projections.projection is 'Name of the projection.';
comment on column evsource.projections.kind is 'event, batch, query or fold.';
comment on column evsource.projections.mode is 'inline, async or manual.';
comment on column evsource.projections.state is 'active, catching_up, paused, failed or rebuilding.';
comment on column evsource.projections.handler is 'Signature of the function; null for a query.';
comment on column evsource.projections.query is 'The query over new_events.';
comment on column evsource.projections.categories is 'Categories of streams that it takes events of; null: all.';
comment on column evsource.projections.types is 'Event types that it takes; null: all.';
comment on column evsource.projections.key is 'What events are grouped by: stream, global, or the signature of a function.';
comment on column evsource.projections.start_after is 'Events up to this position are not its own.';
comment on column evsource.projections.state_version is 'Version of its states or tables.';
comment on column evsource.projections.tables is 'Qualified names of the tables that it fills.';
comment on column evsource.projections.on_reset is 'Signature of a function that empties what it has made.';
comment on column evsource.projections.on_error is 'stop or dead_letter.';
comment on column evsource.projections.owner is 'Role that its code runs as.';
comment on column evsource.projections.search_path is 'The setting that its code runs with.';
comment on column evsource.projections.snapshot_every is 'A state is saved after so many events of its key; 0: never.';
comment on column evsource.projections.snapshot_after_batch is 'States are saved in the transaction that changed them.';
comment on column evsource.projections.restore_from_snapshot is 'States are loaded from snapshots.';
comment on column evsource.projections.is_compatible is 'Signature of a function that says which older states can be used.';
comment on column evsource.projections.migrate_state is 'Signature of a function that brings an older state up to date.';
comment on column evsource.projections.notify is 'Each change of the read model is announced by NOTIFY.';
comment on column evsource.projections.stale is 'It has missed events, and must be rebuilt.';
comment on column evsource.projections.partitions is 'Workers that may share it.';
comment on column evsource.projections.keep_snapshots is 'Versions of each snapshot that are kept.';
comment on column evsource.projections.path is 'Argument of a fold that takes one.';
comment on column evsource.projections.replay_until is 'Events up to this position count as history.';
comment on column evsource.projections.vouched is 'The definition that is_compatible and migrate_state speak for.';
comment on column evsource.projections.created_at is 'When it was registered.';

comment on column evsource.subscriptions.subscription is 'Name of the subscription.';
comment on column evsource.subscriptions.owner is 'Role whose rights a consumer needs.';
comment on column evsource.subscriptions.categories is 'Categories of streams that it takes events of; null: all.';
comment on column evsource.subscriptions.types is 'Event types that it takes; null: all.';
comment on column evsource.subscriptions.start_after is 'Events up to this position are not its own.';
comment on column evsource.subscriptions.partitions is 'How many consumers can work at once.';
comment on column evsource.subscriptions.max_attempts is 'Attempts before an event becomes a dead letter; 0: no limit.';
comment on column evsource.subscriptions.generation is 'Number of the newest set of partitions.';
comment on column evsource.subscriptions.definition is 'Counts changes of what it takes.';
comment on column evsource.subscriptions.created_at is 'When it was created.';

comment on column evsource.checkpoints.projection is 'Name of the projection.';
comment on column evsource.checkpoints.position is 'The log has been applied up to here; an inline projection is always up to date.';
comment on column evsource.checkpoints.event_count is 'Events applied up to this position.';
comment on column evsource.checkpoints.updated_at is 'When this row was written.';
comment on column evsource.checkpoints.started_at is 'When the rebuild or catching up that is under way began.';
comment on column evsource.checkpoints.total is 'Events that it had to apply then.';
comment on column evsource.checkpoints.resumed_at is 'When the session that works on it began.';
comment on column evsource.checkpoints.resumed_count is 'event_count at that time.';
comment on column evsource.checkpoints.conflicts is 'Transactions that were repeated after lock timeouts, deadlocks and serialization failures.';
comment on column evsource.checkpoints.from_snapshot is 'The rebuild that is under way, or was cancelled, began with a snapshot.';
comment on column evsource.checkpoints.truncated is 'A stream for whose truncated events the read model stands.';

comment on column evsource.partitions.projection is 'Name of the projection.';
comment on column evsource.partitions.partition is 'Number of the partition, from 0.';
comment on column evsource.partitions.position is 'The partition has applied the log up to here.';
comment on column evsource.partitions.event_count is 'Events that it has applied.';
comment on column evsource.partitions.updated_at is 'When this row was written.';

comment on column evsource.projection_failures.projection is 'Name of the projection.';
comment on column evsource.projection_failures.partition is 'Number of the partition, from 0.';
comment on column evsource.projection_failures.position is 'Position of the event that failed; null when no event is at fault.';
comment on column evsource.projection_failures.attempts is 'Attempts that count: not those that were no event''s fault.';
comment on column evsource.projection_failures.sqlstate is 'SQLSTATE of the error.';
comment on column evsource.projection_failures.message is 'Message of the error.';
comment on column evsource.projection_failures.detail is 'Detail of the error.';
comment on column evsource.projection_failures.hint is 'Hint of the error.';
comment on column evsource.projection_failures.context is 'Context of the error.';
comment on column evsource.projection_failures.failed_at is 'When the last attempt failed.';
comment on column evsource.projection_failures.retry_at is 'When the next attempt is due; null when the projection has stopped.';

comment on column evsource.dead_letters.projection is 'Name of the projection.';
comment on column evsource.dead_letters.position is 'Position of the event.';
comment on column evsource.dead_letters.stream is 'Stream of the event.';
comment on column evsource.dead_letters.version is 'Version of the event in its stream.';
comment on column evsource.dead_letters.type is 'Type of the event.';
comment on column evsource.dead_letters.sqlstate is 'SQLSTATE of the error; null for an event that waits behind another one.';
comment on column evsource.dead_letters.message is 'Message of the error of the last attempt.';
comment on column evsource.dead_letters.detail is 'Detail of the error.';
comment on column evsource.dead_letters.hint is 'Hint of the error.';
comment on column evsource.dead_letters.context is 'Context of the error.';
comment on column evsource.dead_letters.parked_at is 'When the event was set aside.';
comment on column evsource.dead_letters.failed_at is 'When the last attempt failed.';

comment on column evsource.subscription_dead_letters.subscription is 'Name of the subscription.';
comment on column evsource.subscription_dead_letters.position is 'Position of the event.';
comment on column evsource.subscription_dead_letters.stream is 'Stream of the event.';
comment on column evsource.subscription_dead_letters.version is 'Version of the event in its stream.';
comment on column evsource.subscription_dead_letters.type is 'Type of the event.';
comment on column evsource.subscription_dead_letters.attempts is 'How often it was tried; 0 for an event that waits behind another one.';
comment on column evsource.subscription_dead_letters.reason is 'Why the last attempt failed.';
comment on column evsource.subscription_dead_letters.retry is 'The event will be handed out again.';
comment on column evsource.subscription_dead_letters.parked_at is 'When the event was set aside.';
comment on column evsource.subscription_dead_letters.failed_at is 'When the last attempt failed.';

comment on column evsource.cursors.subscription is 'Name of the subscription.';
comment on column evsource.cursors.generation is 'Number of the set of partitions that this one belongs to.';
comment on column evsource.cursors.partition is 'Number of the partition, from 0.';
comment on column evsource.cursors.partitions is 'Partitions of this generation.';
comment on column evsource.cursors.position is 'Everything up to here is done.';
comment on column evsource.cursors.until is 'Events after this position are not its own; null: no end.';
comment on column evsource.cursors.consumer is 'Consumer that has the events that are out.';
comment on column evsource.cursors.lease_until is 'When the lease of these events expires.';
comment on column evsource.cursors.handed_out is 'Position of the last event that is out.';
comment on column evsource.cursors.attempts is 'Attempts that the first of these events has had.';
comment on column evsource.cursors.retry_at is 'Nothing is handed out before this time.';

comment on column evsource.events_raw.position is 'Place in the log.';
comment on column evsource.events_raw.stream is 'Name of the stream.';
comment on column evsource.events_raw.version is 'Place in the stream.';
comment on column evsource.events_raw.type is 'Type of the event.';
comment on column evsource.events_raw.schema_version is 'Version of the type in which the event was stored.';
comment on column evsource.events_raw.data is 'The data as stored, not upcast.';
comment on column evsource.events_raw.metadata is 'A jsonb object; {} when there is none.';
comment on column evsource.events_raw.id is 'The id that the client or the server assigned.';
comment on column evsource.events_raw.occurred_at is 'When it happened in the world; recorded_at when none was given.';
comment on column evsource.events_raw.recorded_at is 'When this database took the event.';

comment on column evsource.states.projection is 'Name of the fold projection.';
comment on column evsource.states.key is 'What the state is of: a stream, "global", or what the key function returned.';
comment on column evsource.states.state is 'The current state.';
comment on column evsource.states.version is 'Version of the stream, when the key is one.';
comment on column evsource.states.position is 'Position of the last event in the state.';
comment on column evsource.states.event_count is 'Number of events in the state.';

comment on column evsource.snapshot_metadata.projection is 'Name of the fold projection.';
comment on column evsource.snapshot_metadata.key is 'What the state is of: a stream, "global", or what the key function returned.';
comment on column evsource.snapshot_metadata.version is 'Version of the last event in the state, when the key is its stream.';
comment on column evsource.snapshot_metadata.position is 'Position of the last event in the state.';
comment on column evsource.snapshot_metadata.last_event_id is 'Id of the last event in the state.';
comment on column evsource.snapshot_metadata.event_count is 'Number of events in the state.';
comment on column evsource.snapshot_metadata.state_version is 'The projection''s state version when the state was saved.';
comment on column evsource.snapshot_metadata.definition is 'A number that changes with the projection''s handler, filter and start.';
comment on column evsource.snapshot_metadata.saved_at is 'When the state was saved.';
comment on column evsource.snapshot_metadata.occurred_at is 'The latest time of an event in the state.';
comment on column evsource.snapshot_metadata.restores is 'How often a state was computed from a snapshot of this key.';
comment on column evsource.snapshot_metadata.rejections is 'How often a snapshot of this key could not be used.';
comment on column evsource.snapshot_metadata.seen_version is 'Up to this version of the stream, no event after the last one in the state is the projection''s.';
comment on column evsource.snapshot_metadata.seen_position is 'Position of the event of that version.';
comment on column evsource.snapshot_metadata.bytes is 'Size of the state as stored, in bytes.';

comment on column evsource.snapshot_history.projection is 'Name of the fold projection.';
comment on column evsource.snapshot_history.key is 'What the state is of: a stream, "global", or what the key function returned.';
comment on column evsource.snapshot_history.version is 'Version of the last event in the state, when the key is its stream.';
comment on column evsource.snapshot_history.position is 'Position of the last event in the state.';
comment on column evsource.snapshot_history.last_event_id is 'Id of the last event in the state.';
comment on column evsource.snapshot_history.event_count is 'Number of events in the state.';
comment on column evsource.snapshot_history.state_version is 'The projection''s state version when the state was saved.';
comment on column evsource.snapshot_history.definition is 'A number that changes with the projection''s handler, filter and start.';
comment on column evsource.snapshot_history.saved_at is 'When the state was saved.';
comment on column evsource.snapshot_history.occurred_at is 'The latest time of an event in the state.';
comment on column evsource.snapshot_history.state is 'The state.';

comment on column evsource.deciders.decider is 'Name of the decider.';
comment on column evsource.deciders.projection is 'Fold projection whose states it decides on.';
comment on column evsource.deciders.handler is 'Signature of the function.';
comment on column evsource.deciders.owner is 'Role that the function runs as.';
comment on column evsource.deciders.search_path is 'The setting that the function runs with.';
comment on column evsource.deciders.created_at is 'When it was registered.';

comment on column evsource.event_types.type is 'Name of the event type.';
comment on column evsource.event_types.version is 'Version, from 1.';
comment on column evsource.event_types.owner is 'Role that its functions run as.';
comment on column evsource.event_types.search_path is 'The setting that its functions run with.';
comment on column evsource.event_types.created_at is 'When it was defined.';

comment on column evsource.truncations.stream is 'Name of the stream.';

comment on column evsource.snapshot_removals.projection is 'Name of the projection.';
comment on column evsource.snapshot_removals.removed_at is 'When that was.';
comment on column evsource.snapshot_rejections.projection is 'Name of the projection.';
comment on column evsource.snapshot_rejections.reason is 'Why snapshots were rejected.';

comment on column evsource.table_snapshots.projection is 'Name of the projection.';
comment on column evsource.table_snapshots.saved_at is 'When the tables were saved.';

comment on column evsource.projections.lapses is 'How often the log has changed behind it.';
