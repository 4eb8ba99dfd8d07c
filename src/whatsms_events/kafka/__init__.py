"""The one owner of aiokafka: connections, readers, the transactional producer, and the topics."""
