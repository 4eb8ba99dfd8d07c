"""WhatSMS webhooks in; a durable, ordered event log, Kafka topics and a queryable projection out.

The map, from the bottom up; imports go down only:

    errors              every exception of the package
    metrics             every Prometheus metric
    redaction, logs     what a log line may show, and how it is written
    lines               every log line, with what it asks of the reader
    domain/             pure rules
        events, signature, acks       the normalised event and its id; HMAC; the ack lattice
        bodies, fields, many, normalize    raw body -> JSON -> resources -> event
        times, secrets                what is read as a time; what of unknown fields is never kept
        records, resume               event <-> Kafka record; what each partition still needs
        doubt, rows, fold             what nobody can tell; registers; event -> changed rows
        tenant, door                  two spellings of one id; what deliveries say of their sender
        gone, differences, last_message, drift   what REST shows against what we hold
        silence                       whether it is a fault
        repair                        what an odd answer of the REST API means for a backfill
        standing                      whether a role stands still
    storage/            all SQL
        engines, database, schema, tables, migrations/    connect, open, check, migrate
        held_file                                whether SQLite's path still leads to what is open
        postgres_url, servers, lock_session      the server that takes writes; one session for all role locks
        trouble                                  what databases and drivers raise -> our errors, with what to do
        appends, commit, committer               group commit: statements, one batch, the queue
        event_log, parked, relay_row, role_lock  the log's other verbs, and who is active
        projection, projection_rows              rows, offsets and checkpoint, in one transaction
        checkpoints, looks, reports              a backfill's progress, and what it found
        holdings, arrivals                       what a backfill and the watchdog ask of projection and log
        queries, audit                           what the read API asks; what the demo compares
    whatsms/            the vendor's REST API as a typed client, usable by itself
        limits, pages, resources, answers        rates as data; guards; JSON -> structs; reply -> value or error
        transport, endpoint, endpoints, client   one session, retries; the API as methods
    web/                HTTP in: app (listeners, errors -> statuses), receiver, api with its questions, health;
                        views: the JSON that read API and commands show
        connection, framing             one connection: half-closes, what cannot be parsed; where requests begin and end
        senders                         what was committed of one tenant -> alarms
    workers/            loops
        loop                            repeats a piece, backs off, halts
        kafka, kafka_producer, kafka_topics   the wrapper around aiokafka
        visible                         what a reader can see
        relay                           event log -> Kafka
        sources, consumer               Kafka or event log -> projection
        backfill                        REST API -> event log: begins a run and repeats its pieces
        backfill_schedule               which run is due
        backfill_run                    where a run stands, and its report
        backfill_lists, backfill_details, backfill_messages    lists; one by id; the second phase
        backfill_compare, backfill_gaps answers against the projection -> observations, messages to be read
        backfill_gone                   what no list shows -> what may be marked as gone
        watchdog, observer              silence -> alarm; tables -> gauges
    twin/               a WhatSMS that runs offline
        texts, entities, shapes, dialects, account, life, world   the story and its truth
        faults, sender, ledger                                    how it is sent, and what was answered
        rest, rest_reads, rest_writes, rest_answers, rest_limits, rest_faults, rest_ids     its REST API
        control                                                   faults while it runs
    settings, config    settings (with config_sources, config_checks): files, secrets, environment, flags
    serve               the roles of one process (with serve_parts, serve_backfill, serve_start, serve_standing)
    cli/                commands; the longer ones: parked, twin, backfill (with foreground, backfill_view),
                        demo (with demo_settings, demo_truth, demo_repair, view)
"""

__version__ = "0.1.0"
