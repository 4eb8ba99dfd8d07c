"""A webhook receiver and event service for WhatSMS: a durable log, Kafka topics, and a projection to query.

The map, from the bottom up. Imports go down only, and `tests/test_layers.py` holds the code to it.

    errors          every exception, as a tree
    metrics         every Prometheus metric, with what a high value means
    clock           now(), and waiting for an event for a limited time, or for one of several
    redaction       what a log line may show
    logs, lines     how log lines are written; every line by its name, with what it asks of the reader
    domain/         the rules: no await, no clock, no socket, no SQL
        events, signature, acks           the normalised event and its id; the HMAC; the ack lattice
        mismatch                          why a signature does not fit
        resources                         which fields there are: one table per resource; values: how one is read
        normalize                         raw body -> event; beneath it bodies, many, fields, times, secrets
        personal                          which stored values are about a person; blanked and hidden
        suppression, ownership            what stays of an event of somebody who was forgotten; whose a part of it is
        marks                             how somebody who was forgotten is recognised
        authors                           whose a message is by unknown fields, where no known one tells
        before                            whether something is from before that, by the vendor's times and our clocks
        documented                        the same for the documented shape alone, and faster
        verdicts                          a batch of deliveries -> whose they are, and what becomes of each
        fold                              event -> claims -> changed rows; beneath it rows (registers) and doubt;
        bare, plain_acks                  from an event's bytes straight to its claims; the same for a plain ack
        message_acks                      how far a message got, by its row
        records, resume                   event <-> Kafka record; what a partition still needs after a restart
        drift                             what REST shows against what we hold; beneath it differences, last_message
        gone                              the one rule for what is gone
        replay, findings                  what a replay takes, how it is read again; how tables differ
        repair, walk, sighting            decisions of every backfill run: phases, items, answers; passes; clocks
        trace                             what became of one event, field by field
        search, delays                    what a contact is found by; ranges of time that messages take
        seals                             hashes over closed ranges of the log, chained; the first flaw of one
        forms                             compressed, in UTF-16, a field twice: what no event was read of
        named                             whom JSON or some bytes name, and who was merged: for export and erasure
        retention, texts                  how long each kind is kept, and what is due; how old what was written is
        feed                              the form of the event feed: blocks of text, and places
        tenant, door                      two spellings of one id; what deliveries say of their sender
        silence, standing                 when silence is a fault; whether a role stands still
        trail                             counters of the last minutes -> rates
        scopes                            what the holder of a token may do
        rotation                          when a webhook secret may be taken out of the configuration
    consume         for consumers in Python: a Kafka record, or a row of the read API, <-> a typed event
    storage/        all SQL
        database, engines, schema, tables, migrations/    open, check, migrate
        one_hop                           aiosqlite, with one hop into its thread for a statement
        columns                           types of columns, conditions of partial indexes
        held_file, postgres_url, servers  is it still our file, our server
        move_mark                         has the log moved, or is it a copy that is not whole
        trouble                           what databases raise -> our errors, with what to do
        role_lock, lock_session           one active process per role
        role_holders                      which process has the lock
        log/                              committer (the queue), room (tenants share it), commit (one group),
                                          appends (its statements);
                                          event_log (reading), arrivals (by tenant), parked, relay_row;
                                          retry (parked deliveries once more);
                                          secret_uses (which secret fitted, and when);
                                          selected, replays: what a replay takes of the log, and which there were;
                                          seals (closed ranges), verify (from the bytes up);
                                          copying (into another database), moving (one place at a time);
                                          blanking (bytes and data of rows go, the rows stay),
                                          retention_places (how far retention is);
                                          erasure (of a person), suppression (who was forgotten, for who appends);
                                          merges (which contacts the vendor merged);
                                          authors (whose a message is, where the log alone tells);
                                          key_holders (which process has which key),
                                          peers (what each process tells of its roles)
        projection/                       apply and rows: a batch in one transaction; hot (what stays in memory);
                                          holdings: what is held; parked: events that could not be applied;
                                          retry: parked events once more, with today's code;
                                          texts: blanked when their days are over; erasure: of a person, at once;
                                          person_rows: which rows are one person's, for export and erasure;
                                          late_ties: what turned out to be a forgotten person's only afterwards;
                                          shadow, swap: a second projection beside it, and how it takes its place
        repair/                           runs, looks, reports of every backfill run: how far it got, what it found;
                                          requests: what a receiver asks for, whichever process has the backfill
        trace                             what is known of one event or one thing, by any name
        person_search                     who a person is and where: the one finder of export and erasure
        person, privacy                   all that is held of one person; how much is held of all
        backup                            the SQLite files, copied while they are written to
        scrubbing, expiry                 nothing of what was blanked stays in SQLite's files; by-products with an end
        reads, audit                      what the read API asks; what the demo compares
        conversations, acks               who is meant, what was said; what became of our messages
        pulse                             how far everything is, and what is parked
        difference                        what a backfill changed of one thing, field by field
    kafka/          connection, producer, topics; visible: what a read_committed reader can see;
                    lookup: the record of one event
    whatsms/        the vendor's REST API as a typed client: `from whatsms_events.whatsms import Client`
        endpoints, endpoint               the API as methods
        transport, limits                 one session, retries, rates
        answers, resources, pages         reply -> value or error; JSON -> structs; guards of lists
    web/            HTTP in
        app, connection, framing          listeners, errors -> statuses; one connection; where requests begin and end
        whole                             a delivery that came in one piece, read without aiohttp
        sockets                           bound by us, or held by systemd
        access, hiding                    who may ask for what: named tokens with scopes; who sees what
        receiver, answers, tally          the door; what it answers; counting in bulk
        rejects                           the last deliveries with a wrong signature, for `verify`
        running                           the settings that the process works with, for `config diff`
        trace, trace_view, trace_words    all that is known of one event or one thing, as JSON and in words
        feed, tail                        events as they come; the end of the log, read once for all readers
        behind                            large events that slow readers of the feed hold
        export, privacy                   all that is held of one person; how much is held of all
        senders                           what was committed of one tenant -> alarms
        api, questions, views, health     the read API and its JSON; livez, readyz, metrics
        documents                         the contracts for machines, and a page about them
        console/                          pages for people
            live                          events as they come
            console, frame, sessions      all of it; what every page has; who is signed in
            rendering, charts, assets     templates -> pages; SVG; style and script
            now, stations, roles          the first page; whether each station works; the roles of all processes
            conversations, bubbles        who is meant, which tickets wait; what was said, as it is drawn
            passport, way                 one event or one thing; an event's stations, with their times
            acks, heat                    what became of our messages; delays by the hour
            places                        where things are, and what a page was asked for
            parked, reasons, repair       what was parked, and why in words; runs of backfills, with their buttons
    workers/        loop repeats a piece, backs off, halts
        relay                             event log -> Kafka
        sources, consumer                 Kafka or event log -> projection
        sealer                            closed ranges of the log -> seals
        retention                         what was kept for its time -> blanked
        forgetting, alone                 a person -> nothing, step by step; nobody else works meanwhile
        older_tables                      who was forgotten since tables were copied -> blanked in them
        imported_marks                    marks in a restored log -> what it holds of these people, blanked
        late_ties                         what turns out later to be a forgotten person's -> blanked
        rereading, replay                 the log once more, with today's code -> shadow tables, or shadow topics
        preview                           what a part of the log would change in the tables today
        watchdog, observer                silence -> alarm; tables -> gauges
    backfill/       REST API -> event log
        worker, schedule                  begins a run that is due, and repeats its pieces
        run, shown                        where a run stands; what was shown of an item
        lists, pager, details             what each list is; one page; one by its id
        compare, gaps, gone               answers against the projection; messages to read; what no list shows
    twin/           a WhatSMS that runs offline
        world, account, entities, life, texts     the story and its truth
        shapes, dialects, sender, faults, ledger  how it is sent, and what was answered
        rest/                             server, reads, writes, answers, limits, ids, faults: its REST API
        control                           faults while it runs
    contracts/      JSON Schema, AsyncAPI and OpenAPI, made of all of the above
        documents                         every document, by the name of its file
        schemas, asyncapi                 what is published: data of events; topics, headers, webhook
        openapi, answers, traces          the private listener: its paths, and what they answer
        listener                          which paths there are
        vendor                            the vendor's REST API, as the twin serves it
        prose, reading                    what the pages of docs say of a field; the page for people
        breaking                          what a change of a contract breaks
        published                         what was made, to be served
    config/         settings, sources, checks, load, render; change: what may change while a process runs
    service/        service: one process, its parts and their order
        roles, parts, stores              what each role needs; settings -> parts; the databases of a process
        upstream                          parts that speak to the vendor
        reload, aside, live               changed settings -> the parts that take them; a thread that may hang
        doors, handover                   the listeners and their sockets; taking over those of the process before
        suppressions                      the marks of who was forgotten, as a file
        record_finder                     the record of an event, whatever Kafka does
        console                           the pages of this process
        start, supervisor, standings      waiting for databases; repeating and stopping; which role stands still
        presence                          what this process tells the others of its roles
    cli/            app: every command by its name; options, running
        serve, config, difference, db, backup, topics, events, trace, log, parked, verify, twin, completion, secrets
        forget, suppressions, privacy     erase a person; keep them erased after a restore; what is held
        asking, tail                      asking a process by its private listener; events as they come
        progress                          how far a long command is
        terminal                          what is printed of values that a terminal would obey
        demo/                             commands, play, settings, truth, repair, view
        export/                           commands; folder: how it is written; page: for a person to read
        backfill/                         commands, foreground, view
        replay/                           commands, options, stage; projection, topics: its two targets; view
"""

__version__ = "0.1.0"
