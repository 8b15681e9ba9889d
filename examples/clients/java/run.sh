#!/bin/sh
# Runs Submit.java with Debian's RabbitMQ client (apt-get install librabbitmq-client-java), or with
# the jars that CLASSPATH names: amqp-client and slf4j-api. JDK 11 or later runs the source as it is.
here=$(dirname "$0")
jars=/usr/share/java
classpath=${CLASSPATH:-$jars/amqp-client.jar:$jars/slf4j-api.jar:$jars/slf4j-nop.jar}
# JDK 17 reads its arguments in the locale's character set.
LC_ALL=C.UTF-8 exec java -XX:TieredStopAtLevel=1 -cp "$classpath" "$here/Submit.java" "$@"
