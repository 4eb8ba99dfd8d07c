"""WhatSMS webhooks in; a durable, ordered event log, Kafka topics and a queryable projection out.

The map, from the bottom up; imports go down only:

    errors              every exception of the package
    metrics             every Prometheus metric
    redaction, logs     what a log line may show, and the lines
    domain/             pure rules
        events, signature, acks       the normalised event and its id; HMAC; the ack lattice
        bodies, fields, normalize     raw body -> JSON -> resources -> event
        records, resume               event <-> Kafka record; what each partition still needs
        rows, fold                    registers; event -> changed rows
    storage/            all SQL
        engines, database, schema, tables, migrations/    connect, open, check, migrate
        appends, commit, committer               group commit: statements, one batch, the queue
        event_log, parked, relay_row, role_lock  the log's other verbs, and who is active
        projection, projection_rows              rows, offsets and checkpoint, in one transaction
        queries, audit                           what the read API asks; what the demo compares
    web/                HTTP in: app (listeners, errors -> statuses), receiver, api, health
    workers/            loops
        loop                            repeats a piece, backs off, halts
        kafka, kafka_producer, kafka_topics   the wrapper around aiokafka
        visible                         what a reader can see
        relay                           event log -> Kafka
        sources, consumer               Kafka or event log -> projection
    twin/               a WhatSMS that runs offline
        texts, entities, dialects, account, life, world   the story and its truth
        faults, sender, ledger                            how it is sent, and what was answered
    settings, config    settings (with config_sources, config_checks): files, secrets, environment, flags
    serve               the roles of one process
    cli/                commands; demo (with its view) and parked are the longer ones
"""

__version__ = "0.1.0"
